"""`python -m cli` is the same program as the `torg` console script."""

from cli.main import main

if __name__ == "__main__":
    main()
