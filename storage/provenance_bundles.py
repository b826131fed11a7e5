"""The provenance of a model in one file, down to its data, with the proof of every word, checked offline.

    {"format": "torg-bundle-2",
     "body": {"market", "job", "head": {a signed tree head}, "records": [...], "hashes": [...],
              "statements": [DSSE envelope...], "totals": {...}},
     "digest", "signature"}

`records` (storage/log_proofs.py) hold every event that says what the job was, who worked on it with what, what came of it, what
it cost; `statements`, one for each segment, are made of these events (storage/segment_statements.py), and made again by whoever
checks. The standard library does it all but signatures, which need `cryptography`.

The checks, in order: format, digest, signature, head, history, inclusion, cosigned (as of an invoice bundle), job (one job, and its spec has
the digest that was journaled), committed (spec, data order and hyper-parameters stand in the log before any work), chain (each
segment names the one before), segments (rounds, steps and work are those of the log), outputs (each checkpoint is in the log, made
from the one before, and has the parameters that its last round agreed on), statements (each is what the events say, signed by the
market), machines (each is signed by its provider's key, where it was told), workers (each member's work in a round is signed by its
lease's key, where it was), lineage (from the result down to code and data),
transfers, charges, totals, complete.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from storage.canonical import canonical_bytes, digest_of
from storage.checks import BundleVerification, Examination, demand, seal
from storage.dsse import check_envelope, envelope, payload_of
from storage.invoice_notes import disputes_of, held_in_escrow
from storage.log_proofs import Known, Logged, check_log_proof, logged, pack
from storage.machines import check_machine
from storage.segment_statements import JobStory, statements_of, story_of, worker_words
from storage.statements import statement_digest, totals_of
from storage.transparency import ShownRecord
from storage.tree_heads import NoSignatures, TreeHead
from storage.units import format_usd
from storage.verification import ELSEWHERE, check_charges, check_outputs, check_statements, check_transfers
from storage.worker_statements import is_statement_signed

PROVENANCE_FORMAT: Final = "torg-bundle-2"
OVER: Final = frozenset({"done", "failed", "cancelled"})
_NAMES: Final = {"market", "job", "head", "records", "hashes", "statements", "totals"}
_TRANSFER: Final = ("id", "kind", "debit", "credit", "amount_nanos", "job", "lease")
Json = dict[str, Any]


def provenance_proof(market: str, job: str, shown: Sequence[ShownRecord]) -> Json:
    """The parts of a bundle that do not need the market's key: events with their proofs, and statements not yet signed."""
    proof = {"market": market, "job": job, **pack(shown)}
    story = story_of(logged(proof))
    return proof | {"statements": statements_of(market, story), "totals": sums_of(story)}


def sums_of(story: JobStory) -> dict[str, int]:
    """The totals of a bundle."""
    return totals_of(_transfers(story))


def make_provenance_bundle(proof: Mapping[str, Any], head: TreeHead, signing_key: bytes | None) -> Json:
    """The bundle of what `provenance_proof` made, proven by this head, each statement in an envelope of its own."""
    envelopes = [envelope(statement, signing_key) for statement in proof["statements"]]
    return seal(PROVENANCE_FORMAT, {**proof, "statements": envelopes, "head": head.to_json()}, signing_key)


def verify_provenance(
    bundle: object, *, public_key: str | None = None, seen: Mapping[str, str] | None = None, witnesses: Collection[str] = ()
) -> BundleVerification:
    """Check everything that a provenance bundle says; never raises for what is in it.

    What whoever checks knows from elsewhere: log_proofs.Known says it of each.
    """
    examined = Examination()
    if check_log_proof(examined, bundle, PROVENANCE_FORMAT, _NAMES, Known(public_key, seen or {}, witnesses)):
        whole: Any = bundle
        body = whole["body"]
        examined.check("job", lambda: _job(body))
        if examined.sound:  # the rest reads the events as the market wrote them
            story = story_of(logged(body))
            examined.check("committed", lambda: _committed(story))
            examined.check("chain", lambda: _chain(story))
            examined.check("segments", lambda: _segments(body["job"], story))
            examined.check("outputs", lambda: _outputs(body["job"], story))
            examined.check("statements", lambda: _statements(whole, story, public_key))
            examined.check("machines", lambda: _machines(story))
            examined.check("workers", lambda: _workers(story))
            examined.check("lineage", lambda: _lineage(story))
            examined.check("transfers", lambda: check_transfers(body["job"], _transfers(story)))
            examined.check("charges", lambda: check_charges(_plain(story), _transfers(story)))
            examined.check("totals", lambda: _totals(body, story))
            examined.check("complete", lambda: _complete(story))
    return examined.verdict()


def _transfers(story: JobStory) -> list[Json]:
    """Those into and out of the job's escrow."""
    found = [one.event for _, rows in sorted(story.transfers.items()) for one in rows if one.event["kind"] not in ELSEWHERE]
    return [{name: event[name] for name in _TRANSFER} for event in found]


def _plain(story: JobStory) -> list[Json]:
    """The statements that the market journaled, which name each other by digest."""
    return [one.event["statement"] for one in story.segments]


def _job(body: Mapping[str, Any]) -> str:
    job, leases, submitted = body["job"], set(), []
    for one in logged(body):
        event = one.event
        if event["type"] == "job_submitted":
            submitted.append(one)
        if event["type"] == "lease_granted":
            leases.add(event["lease"])
        if event["type"] == "lease_started":
            demand(event["lease"] in leases, f"the lease {event['lease']} is not of the job {job}", "another_job")
        else:
            demand(event.get("job") == job, f"an event of record {one.record} is of the job {event.get('job')}", "another_job")
    demand(len(submitted) == 1, f"{len(submitted)} submissions of the job are shown, and there is one", "incomplete")
    event = submitted[0].event
    found = digest_of(event["spec"])
    demand(found == event["spec_digest"], f"the spec has the digest {found}, and {event['spec_digest']} was journaled")
    return f"{event['name']!r} of {event['customer']}, spec {found[:16]}… in record {submitted[0].record}"


def _committed(story: JobStory) -> str:
    """What was decided beforehand stands before what was done with it."""
    assert story.submitted is not None, "the check of the job has seen it"
    spec, works = story.submitted.place, [*story.started.values(), *story.rounds.values()]
    first = min((one.place for one in works), default=None)
    told = f"work began in record {first and first[0]}, before the spec was in the log (record {spec[0]})"
    demand(first is None or spec < first, told, "late_commitment")
    known = {one.event["tuning"]: one for one in story.retuned}
    for number, one in sorted(story.rounds.items()):
        tuning = one.event.get("tuning", 0)
        if tuning:
            told = f"round {number} was made by tuning {tuning}, which is not in the log before it"
            demand(tuning in known and known[tuning].place < one.place, told, "late_commitment")
    if first is None:
        return f"the spec is in record {spec[0]}; no work has begun"
    return f"spec, data order and hyper-parameters are in record {spec[0]}, the first work is in record {first[0]}"


def _chain(story: JobStory) -> str:
    before = None
    for one in story.segments:
        event, statement = one.event, one.event["statement"]
        found = statement_digest(statement)
        demand(found == event["digest"], f"segment {event['segment']} has the digest {found}, and {event['digest']} was journaled")
        named = statement["predicate"]["parents"]["statement"]
        demand(named == before, f"segment {event['segment']} names the statement {named} as the one before, and it is {before}")
        before = found
    return f"{len(story.segments)} segments, each names the one before"


def _segments(job: str, story: JobStory) -> str:
    """Rounds and steps follow on, and every round's members are those that the segment counts."""
    told = check_statements(job, _plain(story))
    for one in story.segments:
        said = one.event["statement"]["predicate"]
        where, first, last = f"segment {said['segment']}", said["rounds"]["first"], said["rounds"]["last"]
        members: dict[str, list[int]] = {}
        for number in range(first, last + 1):
            demand(number in story.rounds, f"{where}: round {number} is not in the log", "incomplete")
            committed = story.rounds[number]
            demand(committed.place < one.place, f"{where}: round {number} was committed after it", "out_of_order")
            for member in committed.event["members"]:
                counts = members.setdefault(member["lease"], [0, 0, 0])
                for at, more in enumerate((1, member["steps"], member["tokens"])):
                    counts[at] += more
        demand(story.rounds[last].event["step"] == said["steps"]["last"], f"{where} ends at another step than its last round")
        work = {row["lease"]: [row["rounds"], row["steps"], row["tokens"]] for row in said["work"]}
        demand(work == members, f"{where}: its work is not that of its rounds' members")
        for lease in members:
            granted = story.granted.get(lease)
            demand(granted is not None and granted.place < one.place, f"{where}: the lease {lease} is not in the log", "incomplete")
    return told


def _outputs(job: str, story: JobStory) -> str:
    told = check_outputs(job, _plain(story))
    for one in story.segments:
        said = one.event["statement"]["predicate"]
        last, outputs = said["rounds"]["last"], said["outputs"]
        durable = story.checkpoints.get(last)
        where = f"segment {said['segment']}"
        demand(durable is not None, f"{where}: its checkpoint is not in the log", "incomplete")
        assert durable is not None
        demand(durable.event["manifest"] == outputs["manifest"], f"{where}: the log has another checkpoint of round {last}")
        agreed = story.rounds[last].event["digest"]
        demand(agreed == outputs["parameters"], f"{where}: round {last} agreed on the parameters {agreed}")
    return told


def _statements(bundle: Mapping[str, Any], story: JobStory, public_key: str | None) -> str:
    body = bundle["body"]
    made, said = statements_of(body["market"], story), body["statements"]
    demand(len(made) == len(said), f"the log has {len(made)} segments, and {len(said)} statements are there", "incomplete")
    signature = bundle["signature"]
    owner = public_key or (None if signature is None else str(signature["public_key"]))
    skipped = "" if owner else "; not signed"
    for ordinal, (statement, one) in enumerate(zip(made, said, strict=True), start=1):
        demand(payload_of(one) == canonical_bytes(statement), f"statement {ordinal} is not what the events say")
        if owner is None:
            demand(one["signatures"] == [], f"statement {ordinal} is signed, and the bundle is not", "stranger")
        elif not skipped:
            try:
                check_envelope(one, owner)
            except NoSignatures as missing:
                skipped = f"; their signatures were skipped: {missing}"
    return f"{len(made)} statements, each made again from the events{skipped or ', signed by the market'}"


def _machines(story: JobStory) -> str:
    told = [one for one in story.started.values() if one.event.get("machine")]
    try:
        for one in told:
            check_machine(one.event)
            named = one.event["machine"]["facts"].get("meter_key", one.event.get("meter_key", ""))
            right = named == one.event.get("meter_key", "")
            demand(
                right,
                f"lease {one.event['lease']}: its provider has signed another key than its worker has",
                "stranger",
            )
    except NoSignatures as missing:
        return f"{len(told)} leases' machines; their signatures were skipped: {missing}"
    silent = len(story.started) - len(told)
    return f"{len(told)} leases' machines, signed by their providers" + (f"; of {silent} nothing is known" if silent else "")


def _workers(story: JobStory) -> str:
    """Each worker's word for its work in a round is signed by its lease's key; those that gave none are counted."""
    given = sum(len(one.event["members"]) for one in story.rounds.values())
    words, skipped = [(number, word) for number in sorted(story.rounds) for word in worker_words(story, number)], ""
    for number, word in words:
        try:
            signed = is_statement_signed(word.statement, word.public_key, word.signature)
        except NoSignatures as missing:
            skipped = f"; their signatures were skipped: {missing}"
            break
        demand(signed, f"the work of lease {word.lease} in round {number} is not signed by its lease's key", "stranger")
    silent = given - len(words)
    rest = f"; {silent} have no signature of their worker" if silent else ""
    return f"{len(words)} of {given} members' rounds are signed by the workers that made them{rest}{skipped}"


def _lineage(story: JobStory) -> str:
    """From the result, or the newest checkpoint, by the one before each, to code and data."""
    assert story.submitted is not None, "the check of the job has seen it"
    spec, plain = story.submitted.event["spec"], _plain(story)
    wanted = {"data": spec["data"].get("digest"), "code": spec.get("workload", {}).get("digest")}
    for statement in plain:
        predicate = statement["predicate"]
        for kind, digest in wanted.items():
            named = predicate[kind]["digest"]
            told = f"segment {predicate['segment']} was made from the {kind} {named}, and {digest} was submitted"
            demand(named == digest, told)
        demand(predicate["data"]["order_seed"] == spec["seed"], f"segment {predicate['segment']} has another order of its data")
    by_output = {one["predicate"]["outputs"]["manifest"]: one["predicate"] for one in plain}
    if "command" in spec:
        return "a command's job: it has no segments"
    if not plain:
        return "no checkpoint yet"
    newest = plain[-1]["predicate"]["outputs"]["manifest"]
    end = newest if story.result is None else story.result.event["manifest"]
    demand(end in by_output, f"the result {end} is no checkpoint of a segment")
    steps, at = 0, end
    while at is not None:
        demand(at in by_output and steps <= len(plain), f"the checkpoint {at} comes from nowhere")
        at, steps = by_output[at]["parents"]["manifest"], steps + 1
    what = "the newest checkpoint" if story.result is None else "the result"
    data = spec["data"].get("label") or spec["data"].get("name") or "none submitted"
    root = f" ({wanted['data'][:16]}…)" if wanted["data"] else ""
    return f"{what} {end[:16]}… ← {steps} segments ← initial parameters of seed {spec['seed']}, data: {data}{root}"


def _totals(body: Mapping[str, Any], story: JobStory) -> str:
    found = sums_of(story)
    demand(found == body["totals"], f"the transfers add up to {found}, and the bundle says {body['totals']}")
    return f"{format_usd(found['billed_nanos'])} dollars billed, {format_usd(found['released_nanos'])} given back"


def _complete(story: JobStory) -> str:
    """A job that is over has moved all its money; every charge and every durable checkpoint has its segment."""
    durable: dict[int, Logged] = story.checkpoints
    ends = {one.event["statement"]["predicate"]["rounds"]["last"] for one in story.segments}
    missing = sorted(set(durable) - ends)
    demand(not missing, f"the checkpoints of the rounds {missing[:9]} have no segment", "incomplete")
    if story.state not in OVER:
        return f"the job is {story.state}: this is its provenance so far"
    left = sums_of(story)["escrow_left_nanos"]
    held = held_in_escrow(_disputes(story))
    demand(left == held, f"the job is {story.state} and {left - held} nano-dollars of its escrow are nowhere", "incomplete")
    kept = f"holds {format_usd(held)} dollars for open disputes" if held else "is empty"
    return f"the job is {story.state} and its escrow {kept}: nothing was left out"


def _disputes(story: JobStory) -> list[Json]:
    told = [one.event | {"at_ms": one.at_ms} for one in story.disputed]
    return disputes_of(*([one for one in told if one["type"] == kind] for kind in ("dispute_opened", "dispute_closed")))
