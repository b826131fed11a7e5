"""The first code in a sandbox: `python -m trainers.inside --isolation LEVEL --scratch FOLDER [--readable PATH]… MODULE …`.

Leaves a listener behind where there is a way out (`trainers.outward.door`). Gives up what root may do and puts Landlock's rules on the process while it has one thread, then imports MODULE and calls its `main`.
"""

import argparse
import ctypes
import gc
import importlib
import struct
import sys

from trainers import landlock, sandbox
from trainers.outward.door import leave_listener
from trainers.seccomp import PR_SET_NO_NEW_PRIVS

CAPABILITY_VERSION_3 = 0x20080522


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--isolation", choices=("sandbox", "process"), required=True)
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--readable", action="append", default=[])
    parser.add_argument("--node", action="append", default=[])
    parser.add_argument("--listener-to", type=int, metavar="FD")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.isolation == "sandbox":
        rules = landlock.rules_within(given.scratch)
    else:
        code = map(str, sandbox.code_folders())
        rules = landlock.rules_beside(given.scratch, [*code, *given.readable], given.node)
    give_up_capabilities()
    if given.listener_to is not None:
        leave_listener(given.listener_to)
    try:
        landlock.confine(rules)
    except landlock.LandlockUnavailable as error:
        sys.stderr.write(f"torg: {error}\n")
    sys.argv = [given.module, *given.arguments]
    gc.disable()  # a tenth of what torch takes to be imported would be spent on looking for garbage
    module = importlib.import_module(given.module)
    gc.freeze()
    gc.enable()
    module.main()


def give_up_capabilities() -> None:
    """For good, also for programs that it starts. Only a process of root without bubblewrap has any."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24))


if __name__ == "__main__":
    main()
