"""One job through its whole life, with machines that are plain HTTP clients: every nano-dollar is where it belongs."""

import json
from pathlib import Path

from market.head_memory import HeadMemory
from market.homes import kept_key
from market.witness import believe, path_of
from storage.checkpoints import Manifest, TensorEntry
from storage.invoice_bundles import verify_invoice
from storage.provenance import verify_bundle
from storage.signing import public_key_of
from storage.tree_heads import TreeHead
from tests.api.conftest import Torg
from tests.api.square import USD, FakeProvider, FakeRun, Square, make_offer, make_spec, refusal


def test_a_job_lives_loses_a_worker_and_is_billed_what_the_ledger_says(
    square: Square, torg: Torg, tmp_path: Path
) -> None:
    region, job = square.name("region"), square.name("job")
    customer, ann = square.newcomer("customer", 20 * USD)
    _, first = square.newcomer("provider")
    second_name, second = square.newcomer("provider")
    plane, operator = square.local("plane"), square.local("operator")
    machines = [
        FakeProvider(first, make_offer(square.name("offer"), region, 45 * USD // 100)),
        FakeProvider(first, make_offer(square.name("offer"), region, 50 * USD // 100)),
        FakeProvider(second, make_offer(square.name("offer"), region, 60 * USD // 100)),
    ]
    try:
        submitted = ann.submit_job(job, make_spec(region))
        assert ann.submit_job(job, make_spec(region))["id"] == submitted["id"]
        assert ann.balance()["escrow_nanos"] == 5 * USD
        assert ann.balance()["wallet_nanos"] == 15 * USD

        run = FakeRun(plane, job)
        workers = run.workers(2)
        assert {lease["slot"] for lease in workers} == {0, 1}
        assert job in [one["job"] for one in plane.runs()["runs"]]
        lines = [{"at_ms": 1000, "source": "slot 0", "line": "hello from the model"}]
        run.read(workers, logs=lines)
        run.read(workers, logs=lines)
        assert ann.job_logs(job)["text"].count("hello from the model") == 1, "a report that is told again prints once"

        run.report(workers)
        plane.report_readings(job, run_pid=1, evaluated=[{"round": 1, "loss": 3.5}])
        state = run.checkpoint()
        charged = ann.job(job)["billed_nanos"]
        assert charged > 0
        lost = next(lease for lease in workers if lease["slot"] == 0)
        rest = [lease for lease in workers if lease["slot"] != 0]
        reason = {"lease": lost["id"], "epoch": lost["epoch"], "reason": "worker_killed", "detail": "SIGKILL"}
        run.read(workers)
        run.report(rest, lost=[reason])
        refilled = run.workers(2, but_not=(lost["id"],))
        assert {lease["slot"] for lease in refilled} == {1, 2}
        assert any(lease["provider"] == second_name for lease in refilled), "the third offer takes its place"
        assert plane.directive(job)["ended"] == [{"slot": 0, "reason": "worker_killed", "detail": "SIGKILL"}]
        tuned = ann.retune_job(job, id="t1", strategy="noloco", options={"beta": 0.8})
        assert ann.retune_job(job, id="t1", strategy="noloco", options={"beta": 0.8})["tunings"] == tuned["tunings"]
        told = plane.directive(job)
        assert (told["tuning"], told["spec"]["strategy"]["beta"], told["spec"]["train"]["clip"]) == (1, 0.8, 1.0)
        wrong = refusal(lambda: ann.retune_job(job, id="t2", options={"alpha": 9}))
        assert (wrong.status, wrong.field) == (422, "strategy.alpha")
        assert refusal(lambda: square.newcomer("customer")[1].retune_job(job, id="t3", strategy="ddp")).status == 404
        run.checkpoint(removed=[state])
        assert plane.blobs.size(state) is None, "a checkpoint that is not kept is removed"
        run.report(refilled, manner={"strategy": "noloco", "attempts": 2, "late": [1]}, sent_bytes=7, stall_ms=3)
        run.read(refilled, evaluated=[{"round": 3, "loss": 1.25, "metrics": {"accuracy": 0.5}}])
        too_many = {"round": 3, "loss": 1.25, "metrics": {str(number): 0.5 for number in range(17)}}
        assert refusal(lambda: plane.report_readings(job, run_pid=1, evaluated=[too_many])).status == 422
        run.checkpoint()
        plane.report_halted(job, state="done", reason="done", round=3, manifest=run.manifest)

        happened = [one["event"]["type"] for one in ann.job_events(job)]
        assert happened[0] == "job_submitted"
        assert happened[-1] == "job_state"
        assert happened.count("lease_granted") == 3
        done = ann.job(job)
        assert (done["state"], done["rounds_committed"], done["escrow_nanos"]) == ("done", 3, 0)
        assert (done["loss_first"], done["loss_last"]) == (3.5, 1.25)
        assert (done["metrics_last"], ann.rounds(job)[2]["metrics"]) == ({"accuracy": 0.5}, {"accuracy": 0.5})
        killed = next(lease for lease in done["leases"] if lease["id"] == lost["id"])
        assert killed["fault"] == "provider"
        assert killed["charged_ms"] < killed["metered_ms"], "what was metered after its last round is not charged"
    finally:
        for machine in machines:
            machine.close()

    billed = done["billed_nanos"]
    escrow = operator.transfers(account=f"escrow:{job}", limit=1000)
    assert sum(one["amount_nanos"] for one in escrow) == 0, "what came in went out"
    paid = -sum(one["amount_nanos"] for one in escrow if one["kind"] in ("charge", "fee"))
    assert paid == billed
    assert ann.balance()["wallet_nanos"] == 20 * USD - billed
    earned = first.balance()["earnings_nanos"] + second.balance()["earnings_nanos"]
    fee = -sum(one["amount_nanos"] for one in escrow if one["kind"] == "fee")
    assert earned + fee == billed

    first_name = first.balance()["account"]
    take = first.balance()["earnings_nanos"]
    assert operator.payout(f"pay-{job}", first_name, take)["balance_nanos"] == 0
    assert operator.payout(f"pay-{job}", first_name, take)["balance_nanos"] == 0
    assert refusal(lambda: operator.payout(f"pay-again-{job}", first_name, 1)).code == "insufficient_funds"

    owed = second.balance()["earnings_nanos"]
    lease = next(one["id"] for one in done["leases"] if one["provider"] == second_name)
    ours = ("--key", square.key_of(customer))
    code, said, error = torg("dispute", "open", job, lease, "--amount", "0.000001", "--reason", "slow", "--id", f"d-{job}", *ours)
    assert (code, said.startswith(f"d-{job}: open, $0.000001")) == (0, True), error
    statement = json.loads(torg("statement", "--account", second_name, "--json")[1])
    assert (statement["earned_nanos"], statement["payable_nanos"]) == (owed, owed - statement["held_nanos"])
    assert statement["held_nanos"] > 0
    assert torg("dispute", "reject", f"d-{job}", "--reason", "it was not")[0] == 0
    assert json.loads(torg("dispute", "ls", "--job", job, "--json", *ours)[1])[0]["state"] == "rejected"
    assert json.loads(torg("statement", "--account", second_name, "--json")[1])["payable_nanos"] == owed

    lines = ann.billing(job=job)
    assert sum(line["charged_nanos"] for line in lines) == billed
    assert all(line["job"] == job for line in lines)
    assert sum(line["refunded_nanos"] for line in lines) > 0
    invoice = ann.invoice(job)
    bundle = ann.invoice_bundle(job)
    found = verify_invoice(bundle, public_key=square.home.read_market()["public_key"])
    assert found.ok, [check for check in found.checks if not check.ok]
    assert bundle["body"]["invoice"] == {name: value for name, value in invoice.items() if name != "estimate"}
    assert operator.invoice_bundle(job)["body"]["records"] == bundle["body"]["records"]
    assert refusal(lambda: second.invoice_bundle(job)).code == "unknown_job"
    early = believe(None, TreeHead.parse(bundle["body"]["head"]), [], None)
    operator.deposit(f"more-{job}", customer, 1)
    later = ann.log(old=early.newest.size)
    assert believe(early, TreeHead.parse(later["head"]), path_of(later), None).newest.size > early.newest.size
    assert refusal(lambda: ann.log(old=later["head"]["size"] + 1000)).code == "size_unknown"
    witness = HeadMemory(tmp_path / "heads.json", lambda: kept_key(tmp_path / "cosigner.key"))
    look = witness.look(second, now_ms=1)
    key = public_key_of(kept_key(tmp_path / "cosigner.key"))
    told = ann.log()["cosigned"]
    row = next(one for one in told if one["cosignatures"][0]["public_key"] == key)
    assert (row["head"], row["cosignatures"][0]["member"]) == (look.head.to_json(), second_name)
    wrong = row["cosignatures"][0] | {"at_s": 2}
    wrong.pop("member")
    assert refusal(lambda: second.cosign_head(row["head"], **wrong)).code == "bad_cosignature"
    assert HeadMemory(tmp_path / "ann.json", lambda: bytes(32)).look(ann, now_ms=1).cosigned, "ann holds the market to it"
    known = square.home.read_market()["public_key"]
    witnessed = verify_invoice(ann.invoice_bundle(job), public_key=known, witnesses=[key])
    assert witnessed.ok, [check for check in witnessed.checks if not check.ok]
    assert [one["round"] for one in ann.rounds(job)] == [1, 2, 3]
    assert (done["training"]["sent_bytes"], done["training"]["retries"]) == (14, 1)
    assert [(one["tuning"], one["first_round"]) for one in done["tunings"]] == [(1, 3)]
    sums = ann.sql("SELECT round, strategy, sum(sent_bytes), sum(stall_ms) FROM rounds GROUP BY ALL ORDER BY round")[
        "rows"
    ]
    assert [[number, name, int(sent), int(stall)] for number, name, sent, stall in sums] == [
        [1, "", 0, 0], [2, "", 0, 0], [3, "noloco", 14, 6]
    ]  # fmt: skip
    assert ann.result(job)["manifest"]["round"] == 3
    assert ann.job_logs(job, after=10**6, wait_s=30)["over"], "a job that is over prints nothing more"

    bundle = ann.provenance(job)
    known = operator.status()["public_key"]
    assert square.home.read_market()["public_key"] == known
    verified = verify_bundle(bundle, public_key=known)
    assert verified.ok, verified.checks
    assert bundle["body"]["totals"]["billed_nanos"] == billed
    books = operator.verify_books()
    assert (books["ok"], books["balanced"], books["projection_ok"]) == (True, True, True)
    assert customer == ann.balance()["account"]


def test_a_new_ray_ends_what_ran_on_the_old_one_and_another_worker_is_told_to_stop(square: Square, spare: Path) -> None:
    region, job = square.name("region"), square.name("job")
    _, ann = square.newcomer("customer", 20 * USD)
    _, owner = square.newcomer("provider")
    plane, token = square.local("plane"), spare.parent / "token"
    token.write_text("secret\n")
    plane.announce_ray("127.0.0.1:7001", str(token))
    machines = [FakeProvider(owner, make_offer(square.name("offer"), region)) for _ in range(3)]
    try:
        ann.submit_job(job, make_spec(region))
        run = FakeRun(plane, job)
        first, second = run.workers(2)
        plane.announce_ray("127.0.0.1:7001", str(token))
        assert {one["id"] for one in run.workers(2)} == {first["id"], second["id"]}, "the same head again loses nothing"
        told = refusal(lambda: owner.lease_started(first["id"], epoch=first["epoch"], worker="w2", pid=1, node="node"))
        assert (told.status, told.code) == (409, "lease_ended")
        plane.announce_ray("127.0.0.1:7002", str(token))
        ended = {one["id"]: one for one in ann.job(job)["leases"]}
        assert ended[first["id"]]["reason"] == "worker_lost"
        assert (ended[second["id"]]["reason"], ended[second["id"]]["fault"]) == ("head_lost", "market")
        assert {one["state"] for one in owner.offers() if one["region"] == region} == {"offline"}
        for machine in machines:
            owner.place_offer(make_offer(machine.offer, region, node="node-2"))
        assert {one["node"] for one in run.workers(2)} == {"node"}, "others are granted and started"
    finally:
        for machine in machines:
            machine.close()
        ann.cancel_job(job)


def test_a_job_that_fits_nothing_says_why_and_gives_its_budget_back(square: Square) -> None:
    region, job = square.name("region"), square.name("job")
    _, ann = square.newcomer("customer", 6 * USD)
    ann.submit_job(job, make_spec(region))
    assert ann.job(job)["state"] == "pending"
    assert ann.explain(job)["reason"]
    assert ann.add_budget(job, id="more-1", add_nanos=USD)["budget_nanos"] == 6 * USD
    assert ann.add_budget(job, id="more-1", add_nanos=USD)["budget_nanos"] == 6 * USD, "the same id adds once"
    assert ann.cancel_job(job)["state"] == "cancelled"
    assert ann.balance()["wallet_nanos"] == 6 * USD
    assert [one["event"]["type"] for one in ann.job_events(job)][-1] == "job_state"


def test_a_quote_says_what_a_job_would_cost_and_holds_nothing(square: Square) -> None:
    region = square.name("region")
    _, ann = square.newcomer("customer", 6 * USD)
    _, owner = square.newcomer("provider")
    owner.place_offer(make_offer(square.name("offer"), region))
    poor = ann.quote(make_spec(region))
    assert not poor["feasible"]
    assert poor["reason"]
    owner.place_offer(make_offer(square.name("offer"), region))
    plan = ann.quote(make_spec(region))
    assert plan["feasible"]
    assert len(plan["candidates"]) == 2
    assert ann.balance()["escrow_nanos"] == 0
    wrong = refusal(lambda: ann.quote(make_spec(region, workers__min=0)))
    assert (wrong.status, wrong.field) == (422, "workers.min")


def test_a_job_whose_bytes_are_not_here_is_refused_before_money_moves(square: Square) -> None:
    _, ann = square.newcomer("customer", 6 * USD)
    data = {"kind": "blob", "digest": "d" * 64, "bytes": 10, "label": "text"}
    refused = refusal(lambda: ann.submit_job(square.name("job"), make_spec("r", data=data)))
    assert (refused.code, refused.field) == ("blob_missing", "data.digest")
    assert ann.balance()["wallet_nanos"] == 6 * USD
    digest = ann.upload(b"0123456789ab")
    for size in (10, 3 * 2**30):
        data = {"kind": "blob", "digest": digest, "bytes": size, "label": "text"}
        refused = refusal(lambda data=data: ann.submit_job(square.name("job"), make_spec("r", data=data)))  # type: ignore[misc]
        assert (refused.code, refused.field) == ("invalid_field", "data.bytes")
    assert ann.balance()["wallet_nanos"] == 6 * USD


def test_a_checkpoint_of_another_job_or_place_is_refused_and_charges_nothing(square: Square) -> None:
    region, job = square.name("region"), square.name("job")
    _, ann = square.newcomer("customer", 6 * USD)
    _, owner = square.newcomer("provider")
    plane = square.local("plane")
    machines = [FakeProvider(owner, make_offer(square.name("offer"), region)) for _ in range(2)]
    try:
        ann.submit_job(job, make_spec(region))
        run = FakeRun(plane, job)
        run.report(run.workers(2))
        state = ann.upload(b"a state")
        right = {"job": job, "round": 1, "step": 30}
        for wrong in ({"job": "job-other"}, {"round": 2}, {"step": 29}):
            manifest = Manifest(
                **(right | wrong), parent=None, tensors=(TensorEntry("w", (1,), "float32"),), state=state,  # type: ignore[arg-type]
                state_bytes=7, parameters="a" * 64, strategy={}, code=None, data=None, created_at_ms=1,
            )  # fmt: skip
            body = right | {"manifest": plane.upload(manifest.encode()), "bytes": 7, "stall_ms": 1, "removed": []}
            refused = refusal(lambda body=body: plane.report_checkpoint(body))  # type: ignore[misc]
            assert (refused.status, refused.code) == (422, "manifest_wrong"), wrong
        assert ann.job(job)["durable"] is None
        run.checkpoint()
    finally:
        for machine in machines:
            machine.close()
        ann.cancel_job(job)
