"""The self-test: attempts to break out of the sandbox, each a small function, each with a control that works outside it.

`attempts.py` is the table; `files.py`, `kernel.py`, `processes.py`, `network.py` and `limits.py` hold what is attempted;
`intruder.py` runs it inside; `scene.py` is what there is to steal; `battery.py` runs the table and says what held.
"""

FORMAT = "torg-selftest-1"
"""Of its report."""
