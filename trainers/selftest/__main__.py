"""`python -m trainers.selftest --torg VERSION --parent-pid N`: one run in the sandbox, politely; prints its report as JSON."""

import argparse
import json
import os
import time

from trainers import sandbox
from trainers.selftest.battery import run
from trainers.selftest.report import machine, report

NICE = 15


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--torg", required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    given = parser.parse_args()
    sandbox.die_with_parent(given.parent_pid)
    os.nice(NICE)
    print(json.dumps(report(run("sandbox"), machine(given.torg), int(time.time() * 1000))))  # noqa: T201  its answer


if __name__ == "__main__":
    main()
