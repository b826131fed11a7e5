"""`python -m market.engine.warm`: compile the loops into numba's cache on disk, in a process of its own, and end."""

from market.engine.solve import warm_up

if __name__ == "__main__":
    warm_up()
