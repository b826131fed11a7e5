"""The matching engine: gangs of GPUs against offers, near the most welfare that is possible (docs/CLEARING.md).

Columns in, matches out. Nothing here reads a clock, a file or the environment, and the only randomness comes from a
seed that is an argument. `columns.py` checks what people write and needs nothing but the standard library; the rest
needs numpy and numba (`torg[engine]`) and is imported when a book is to be cleared.
"""
