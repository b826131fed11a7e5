"""The `torg` console script, and `python -m cli`: the same program."""

import sys


def main() -> None:
    """Run one command; who is interrupted while its parts are still being imported hears no more than anybody."""
    try:
        from cli.main import main as program

        program()
    except KeyboardInterrupt:
        print("torg: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
