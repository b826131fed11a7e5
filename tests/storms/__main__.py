"""`python -m tests.storms`: one story by its seed, or as many as fit into some minutes.

    python -m tests.storms --minutes 60            from a seed of the clock on, until one fails
    python -m tests.storms --stories 1000 --from 0
    python -m tests.storms --seed 17               one, with everything that went wrong in it
    python -m tests.storms --seed 17 --shrink      and as little of it as still fails
"""

import argparse
import itertools
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tests.storms.faults import CLASSES
from tests.storms.story import Plan, Told, shrunk, tell, tell_all

SHOWN_AT_MOST = 8


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m tests.storms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seed", type=int, help="one story")
    words.add_argument("--seconds", type=float, help="of virtual time")
    words.add_argument("--customers", type=int)
    words.add_argument("--providers", type=int)
    words.add_argument("--without", default="", help=f"faults to leave out: {', '.join(CLASSES)}")
    words.add_argument("--announced", action="store_true", help="machines announce maintenance when they are listed, and jobs last until it")
    words.add_argument("--shrink", action="store_true", help="leave out what is not needed to fail")
    words.add_argument("--keep", type=Path, help="leave the journal there")
    words.add_argument("--from", dest="first", type=int, help="the first seed of many")
    words.add_argument("--stories", type=int, help="how many")
    words.add_argument("--minutes", type=float, help="how long")
    said = words.parse_args()
    strange = set(filter(None, said.without.split(","))) - CLASSES.keys()
    if strange:
        words.error(f"--without {','.join(sorted(strange))}: the faults are {', '.join(CLASSES)}")
    return _one(said) if said.seed is not None else _many(said)


def _one(said: argparse.Namespace) -> int:
    plan = replace(Plan.of(said.seed), without=frozenset(filter(None, said.without.split(","))), announced=said.announced)
    for name in ("seconds", "customers", "providers"):
        if getattr(said, name) is not None:
            plan = replace(plan, **{name: getattr(said, name)})
    told = tell(plan, said.keep)
    if told.findings and said.shrink:
        plan = shrunk(plan)
        told = tell(plan)
    for what, times in sorted(told.count.items()):
        print(f"{times:6,}  {what}")
    print(f"{told.records} records, head {told.head}")
    _show(told)
    return 1 if told.findings else 0


def _many(said: argparse.Namespace) -> int:
    first = said.first if said.first is not None else int(time.time()) * 1000
    ends_at = None if said.minutes is None else time.monotonic() + said.minutes * 60
    began_s, stories, acknowledged, records, count = time.process_time(), 0, 0, 0, Counter[str]()
    for told in tell_all(itertools.count(first)):
        stories, acknowledged, records = stories + 1, acknowledged + told.acknowledged, records + told.records
        count += told.count
        if told.findings:
            _show(told)
            print(f"made smaller: {shrunk(told.plan).command()}")
            break
        if (ends_at is not None and time.monotonic() >= ends_at) or (ends_at is None and stories >= (said.stories or 1000)):
            break
    for what, times in sorted(count.items()):
        print(f"{times:12,}  {what}")
    cpu_s = time.process_time() - began_s
    print(f"{stories:,} stories from seed {first} on, {records:,} records, {acknowledged:,} acknowledgements, {cpu_s:.0f} CPU seconds")
    return 1 if told.findings else 0


def _show(told: Told) -> None:
    for finding in told.findings[:SHOWN_AT_MOST]:
        print(finding)
    if told.findings:
        print(f"{len(told.findings)} findings. Again: {told.plan.command()}")


if __name__ == "__main__":
    sys.exit(main())
