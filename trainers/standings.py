"""Where a job stands, from what its living workers claim and the books say: nobody is believed against the others. Pure.

A round is committed once all its members hold it. So what the books have heard of may be held by one worker alone; one
round more, which was under way when the run died, by half of the living at least; more than that, by most of them. An
honest worker that is not believed only trains one round again.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from trainers.round_decisions import NOWHERE, START, Standing


@dataclass(frozen=True, slots=True)
class Agreed:
    """`at`: the newest standing that is believed. `liars`: by slot, why a claim cannot be true."""

    at: Standing
    liars: Mapping[int, str]


def agree(claims: Mapping[int, Standing], *, committed: int) -> Agreed:
    """What to make of the workers' claims, by slot. `committed`: rounds that the books have heard of."""
    # Who stands at the start of a job that is further has only just come, and says nothing of where the job is.
    voters = [claim for claim in claims.values() if claim.round > 0 or committed == 0]
    at = START
    for number in sorted({claim.round for claim in voters}):
        backing = sum(other.round >= number for other in voters)
        heard, next_one = number <= committed, number == committed + 1
        if heard or 2 * backing > len(voters) or (next_one and 2 * backing == len(voters)):
            of_round = Counter(claim for claim in voters if claim.round == number)
            at = min(of_round, key=lambda claim: (-of_round[claim], claim))
    newest = max(at.round, committed) + 1
    liars = {
        slot: f"it says that it holds round {claim.round}, and the job is at round {at.round}"
        for slot, claim in sorted(claims.items())
        if claim.round > newest
    }
    return Agreed(at, liars)


def place(claim: Standing, at: Standing) -> Standing:
    """Where a worker of that claim stands in a run that goes on from `at`: NOWHERE when it holds something else."""
    if claim == at or claim.round < at.round:
        return claim
    return START if at == START else NOWHERE
