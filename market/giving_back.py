"""Where money of a job goes when it is given back: what was spent last is given back first.

A job spends what was granted before what was bought, in the order in which it was held (market/credits.py). So what it has
spent is a height in a stack of sources: the grants that it holds from at the bottom, bought money on top. An award raises
the height, a refund or a correction of its charges lowers it, and what is taken off the top goes to whom it is of. Nothing
that was granted becomes money, and nothing that was bought becomes credit, to the nano-dollar, in any order of disputes.

What goes back to a grant that is over ends with it at once. Pure: values in, values out; market/credits.py moves the money.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from market.state import Job

BOUGHT = ""
"""Stands for the customer's wallet among the names of grants."""
Parts = list[tuple[str, int]]


def spent_nanos(job: Job) -> int:
    """What the job has cost so far: billed, and what disputes and corrections made of it."""
    return job.billed_nanos + job.noted_nanos


def spent_of_grants(job: Job, kept_nanos: int = 0) -> Parts:
    """(grant, nano-dollars of it that are spent, or kept for a dispute as if they were), in the order in which they are spent."""
    height, found = spent_nanos(job) + kept_nanos, []
    for name, held in job.granted.items():
        part = min(height, max(0, held - job.returned.get(name, 0)))
        height -= part
        found.append((name, part))
    return found


def unspent_of_grants(job: Job, kept_nanos: int = 0) -> Parts:
    """(grant, nano-dollars of it that lie in the escrow and are not kept for a dispute)."""
    return [(name, job.granted[name] - job.returned.get(name, 0) - spent) for name, spent in spent_of_grants(job, kept_nanos)]


def parts_of(job: Job, amount_nanos: int) -> Parts:
    """To whom so much of what the job has spent goes back, as (grant or BOUGHT, nano-dollars), none of them zero."""
    spent = spent_of_grants(job)
    bought = spent_nanos(job) - sum(nanos for _, nanos in spent)
    left, found = amount_nanos, []
    for name, nanos in [(BOUGHT, bought), *reversed(spent)]:
        part = min(left, nanos)
        left -= part
        if part > 0:
            found.append((name, part))
    assert not left, f"{job.id} gets {amount_nanos} back and has spent {spent_nanos(job)}"
    return found


def dealt(payers: Iterable[tuple[str, int]], parts: Sequence[tuple[str, int]]) -> list[tuple[str, str, int]]:
    """Who pays which part, as (payer, grant or BOUGHT, nano-dollars); both sides come to the same sum."""
    left, found = list(reversed(parts)), []
    for payer, owed in payers:
        due = owed
        while due:
            name, nanos = left.pop()
            part = min(due, nanos)
            due -= part
            found.append((payer, name, part))
            if part < nanos:
                left.append((name, nanos - part))
    assert not left, f"{payers} do not pay {parts}"
    return found
