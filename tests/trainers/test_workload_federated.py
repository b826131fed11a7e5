"""Data that stay with their owners: the clinics of the example train one model, and only contributions leave them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from market.forms import digest_only, read_job, resolve
from trainers.child_process import JobPackage, TrainerChild
from trainers.layout import elements_of
from trainers.member import Member, RoundOrder
from trainers.sandbox import isolation_level

EXAMPLES = Path(__file__).parents[2] / "examples"
CLINICS = ("north", "south")
ROUNDS, STEPS = 4, 8
SPEC = resolve(read_job(EXAMPLES / "06-federated.yaml"), digest_only)
HEADERS_AT_MOST = 256


@pytest.fixture
def clinics(tmp_path):
    """A child beside each clinic's folder, which it may read and nothing else, and the member that speaks for it."""
    children = []
    for clinic in CLINICS:
        scratch = tmp_path / clinic
        scratch.mkdir()
        shares = {"patients": EXAMPLES / "clinics" / clinic}
        made = {"threads": 1, "memory_limit_bytes": 512 << 20, "shares": shares, "isolation": isolation_level()}
        children.append(TrainerChild.spawn(scratch=scratch, **made))
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda child: child.wait_ready(120), children))
        loaded = list(both.map(lambda child: child.load(JobPackage(SPEC, None, "share:patients"), 60), children))
    assert loaded[0].tensors == loaded[1].tensors
    assert np.array_equal(loaded[0].initial, loaded[1].initial)
    members = [Member(SPEC, one.tensors, one.initial, slot=slot) for slot, one in enumerate(loaded)]
    yield children, members
    for child in children:
        child.kill()


def test_two_clinics_learn_from_each_other_and_nothing_but_contributions_leaves_them(clinics):
    children, members = clinics
    elements = elements_of(members[0].layout)
    left, before = [], members[0].parameters
    for number in range(1, ROUNDS + 1):
        first = (number - 1) * STEPS
        order = RoundOrder(number, first, first + STEPS, 0, (0, 1))
        payloads, trained = {}, {}
        for slot, (child, member) in enumerate(zip(children, members, strict=True)):
            trained[slot] = child.train(
                member.parameters,
                round=number,
                first_step=first,
                steps=STEPS,
                worker=slot,
                evaluate=False,
                timeout_s=60,
            )
            member.contribute(trained[slot].parameters, order, weight=float(trained[slot].tokens))
            payloads[slot] = member.payload()
        assert (trained[0].tokens, trained[1].tokens) == (STEPS * 60, STEPS * 20), "a quarter of 240 and of 80 rows"
        for member in members:
            member.commit(member.merge(payloads).digest)
        assert members[0].digest() == members[1].digest()
        left += payloads.values()
        if number == 1:  # McMahan et al., arXiv 1602.05629, algorithm 1: weighted by the samples behind each
            mean = 0.75 * trained[0].parameters + 0.25 * trained[1].parameters
            assert np.allclose(members[0].parameters, mean, atol=2e-3 * np.abs(mean - before).max())
    learned = [child.evaluate(members[0].parameters, 60) for child in children]
    assert learned[0] == learned[1], "both hold the same patients out"
    assert learned[0] < 0.9 * children[0].evaluate(before, 60)
    assert all(len(payload) <= 2 * elements + HEADERS_AT_MOST for payload in left), "fp16 values and a header, no more"
    rows = b"".join((EXAMPLES / "clinics" / clinic / "patients.csv").read_bytes() for clinic in CLINICS).split(b"\n")
    assert not any(row in payload for payload in left for row in rows if len(row) > 12)
    assert not any("patients" in line for child in children for line in child.read_log())
