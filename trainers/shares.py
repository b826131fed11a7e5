"""How the work of a round is shared out: so many batches as asked, whoever is there, more of them to the faster."""

from collections.abc import Mapping, Sequence


def share_out(
    steps: int,
    slots: Sequence[int],
    nominal_members: int | None,
    ms_per_step: Mapping[int, float],
    *,
    equal: bool = False,
) -> dict[int, int]:
    """Steps of every slot, each at least 1.

    Without `nominal_members` everybody trains `steps`. With it, the round has steps · nominal_members in all (at least one
    each), in proportion to the members' measured speeds; a member not yet measured counts as the average of the others.
    Rounded by largest remainder, so that the sum is as asked. `equal`: all get the same, because they exchange in every
    step, and the sum is as near to the asked one as that allows.
    """
    assert steps > 0
    assert slots
    if nominal_members is None:
        return dict.fromkeys(slots, steps)
    total = max(steps * nominal_members, len(slots))
    if equal:
        return dict.fromkeys(slots, max(1, (2 * total + len(slots)) // (2 * len(slots))))
    known = [1.0 / ms_per_step[slot] for slot in slots if slot in ms_per_step]
    usual = sum(known) / len(known) if known else 1.0
    speeds = {slot: 1.0 / ms_per_step[slot] if slot in ms_per_step else usual for slot in slots}
    spare = total - len(slots)  # everybody's first step is given out already
    exact = {slot: spare * speeds[slot] / sum(speeds.values()) for slot in slots}
    shares = {slot: 1 + int(exact[slot]) for slot in slots}
    by_remainder = sorted(slots, key=lambda slot: (int(exact[slot]) - exact[slot], slot))
    for slot in by_remainder[: total - sum(shares.values())]:
        shares[slot] += 1
    return shares
