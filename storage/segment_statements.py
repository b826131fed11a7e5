"""What a job's events in the market's log say of each segment of its training, as in-toto statements with SLSA provenance.

A segment is the work between two durable checkpoints; the market's `provenance` event ends it. Nothing is said here that no
event says: what was not recorded (a machine's driver in a journal of before, a lock file where there was none) is absent.

    statement   {"_type", "subject": [checkpoint, parameters], "predicateType": "https://slsa.dev/provenance/v1", "predicate"}
    predicate   {"buildDefinition": {buildType, externalParameters, internalParameters, resolvedDependencies},
                 "runDetails": {builder, metadata, byproducts, torg_work, torg_metrics, torg_charges, torg_log}}

Source: in-toto.io/Statement/v1, slsa.dev/spec/v1.0/provenance. docs/FORMATS.md has every field.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from storage.log_proofs import Logged
from storage.statements import STATEMENT_TYPE
from storage.units import format_instant
from storage.worker_statements import worker_statement

SLSA_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:torg:training-segment:v2"
Json = dict[str, Any]
Place = list[int]


@dataclass(slots=True)
class JobStory:
    """A job's events by what they tell; rounds and evaluations are those that stand, as a round can be made again."""

    submitted: Logged | None = None
    retuned: list[Logged] = field(default_factory=list)
    granted: dict[str, Logged] = field(default_factory=dict)
    started: dict[str, Logged] = field(default_factory=dict)
    rounds: dict[int, Logged] = field(default_factory=dict)
    signed: dict[int, Logged] = field(default_factory=dict)
    evaluated: dict[int, Logged] = field(default_factory=dict)
    checkpoints: dict[int, Logged] = field(default_factory=dict)
    charges: dict[int, list[Logged]] = field(default_factory=dict)
    transfers: dict[int, list[Logged]] = field(default_factory=dict)
    segments: list[Logged] = field(default_factory=list)
    disputed: list[Logged] = field(default_factory=list)
    result: Logged | None = None
    state: str = ""


def story_of(events: Iterable[Logged]) -> JobStory:
    """Events in the log's order, sorted by what they tell; charges and transfers by the record that they stand in."""
    story = JobStory()
    for one in events:
        event = one.event
        match event["type"]:
            case "job_submitted":
                story.submitted = story.submitted or one
            case "job_retuned":
                story.retuned.append(one)
            case "lease_granted":
                story.granted[event["lease"]] = one
            case "lease_started":
                story.started.setdefault(event["lease"], one)
            case "round_committed":
                story.rounds[event["round"]] = one
                story.evaluated.pop(event["round"], None)
                story.signed.pop(event["round"], None)
            case "round_signed":
                story.signed[event["round"]] = one
            case "round_evaluated":
                story.evaluated[event["round"]] = one
            case "checkpoint_durable":
                story.checkpoints[event["round"]] = one
            case "lease_charged":
                story.charges.setdefault(one.record, []).append(one)
            case "transfer":
                story.transfers.setdefault(one.record, []).append(one)
            case "provenance":
                story.segments.append(one)
            case "dispute_opened" | "dispute_closed":
                story.disputed.append(one)
            case "job_result":
                story.result = one
            case "job_state":
                story.state = event["state"]
    return story


def statements_of(market: str, story: JobStory) -> list[Json]:
    """One in-toto statement for each segment, in order. Raises KeyError, TypeError where an event that is needed is missing."""
    return [_statement(market, story, one) for one in story.segments]


def _statement(market: str, story: JobStory, segment: Logged) -> Json:
    said = segment.event["statement"]["predicate"]
    job, last = segment.event["job"], said["rounds"]["last"]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": f"{job}/checkpoint/{last}", "digest": {"sha256": said["outputs"]["manifest"]}},
            {"name": f"{job}/parameters/{last}", "digest": {"sha256": said["outputs"]["parameters"]}},
        ],
        "predicateType": SLSA_TYPE,
        "predicate": {
            "buildDefinition": _definition(story, segment, said),
            "runDetails": _details(market, story, segment, said),
        },
    }


def _definition(story: JobStory, segment: Logged, said: Json) -> Json:
    """What was asked for, and what it was made of."""
    assert story.submitted is not None
    event = story.submitted.event
    spec = event["spec"]
    external = {
        "job": event["job"],
        "workload": spec["workload"],
        **{name: said["hyperparameters"][name] for name in ("options", "strategy", "steps", "rounds")},
        **({"switches": said["hyperparameters"]["switches"]} if "switches" in said["hyperparameters"] else {}),
        "order_seed": said["data"]["order_seed"],
        "precision": spec.get("train", {}).get("precision", "fp32"),
        **({"train": spec["train"]} if "train" in spec else {}),
    }
    internal = {
        "segment": said["segment"],
        "rounds": said["rounds"],
        "steps": said["steps"],
        "spec_sha256": event["spec_digest"],
        "committed": _committed(story, said),
    }
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": external,
        "internalParameters": internal,
        "resolvedDependencies": _dependencies(event["job"], said),
    }


def _committed(story: JobStory, said: Json) -> Json:
    """Where the log has what was decided beforehand, and where the work after it begins."""
    assert story.submitted is not None
    tunings = {story.rounds[number].event.get("tuning", 0) for number in _numbers(said)} - {0}
    first = min((one.place for one in story.started.values()), default=None)
    return {
        "spec": _place(story.submitted),
        "tunings": [_place(one) for one in story.retuned if one.event["tuning"] in tunings],
        "first_lease_started": None if first is None else list(first),
        "first_round": _place(story.rounds[said["rounds"]["first"]]),
    }


def _dependencies(job: str, said: Json) -> list[Json]:
    """Code, data and the checkpoint before; what has no digest (a built-in workload, a provider's share) has its name alone."""
    found: list[Json] = []
    for kind in ("code", "data"):
        if said[kind]["label"] != "none":
            digest = said[kind]["digest"]
            named = {} if digest is None else {"digest": {"sha256": digest}}
            found.append({"name": kind, **named, "annotations": {"label": said[kind]["label"]}})
    parent = said["parents"]["manifest"]
    if parent is not None:
        name = f"{job}/checkpoint/{said['rounds']['first'] - 1}"
        found.append({"name": "parent", "digest": {"sha256": parent}, "annotations": {"label": name}})
    return found


def _details(market: str, story: JobStory, segment: Logged, said: Json) -> Json:
    """Who did it, when, on which machines, with which figures, for how much, and where the log has all that."""
    numbers = _numbers(said)
    manifest = story.checkpoints[said["rounds"]["last"]]
    began = story.rounds[numbers[0]]
    started_ms = began.at_ms - began.event["duration_ms"]
    leases = [work["lease"] for work in said["work"]]
    return {
        "builder": {"id": f"urn:torg:market:{market}"},
        "metadata": {
            "invocationId": f"{segment.event['job']}/segment/{said['segment']}",
            "startedOn": format_instant(started_ms),
            "finishedOn": format_instant(segment.at_ms),
        },
        "byproducts": [
            {"name": f"contribution/{number}/{member['slot']}", "digest": {"sha256": member["contribution"]}}
            for number in numbers
            for member in story.rounds[number].event["members"]
            if _is_digest(member["contribution"])
        ],
        "torg_work": [_work(story, work, numbers) for work in said["work"]],
        "torg_metrics": _metrics(story, numbers),
        "torg_charges": _charges(story, segment),
        "torg_log": {
            "segment": _place(segment),
            "checkpoint": _place(manifest),
            "rounds": [_place(story.rounds[number]) for number in numbers],
            "leases": {lease: _place(story.granted[lease]) for lease in leases},
        },
    }


@dataclass(frozen=True, slots=True)
class WorkerWord:
    """A worker's own word for its work in a round: its statement, its lease's key (hex), its signature (hex)."""

    lease: str
    statement: Json
    public_key: str
    signature: str


def worker_words(story: JobStory, round: int) -> list[WorkerWord]:
    """Those of a round that are in the log, by what the log says of that round. Signatures are not checked."""
    if round not in story.signed:
        return []
    committed = story.rounds[round].event
    members = {(member["lease"], member["epoch"]): member for member in committed["members"]}
    found = []
    for word in story.signed[round].event["signed"]:
        member, started = members[word["lease"], word["epoch"]], story.started.get(word["lease"])
        key = "" if started is None else started.event.get("meter_key", "")
        statement = worker_statement(committed["job"], round, word["parameters"] or committed["digest"], member)
        found.append(WorkerWord(word["lease"], statement, key, word["signature"]))
    return found


def _work(story: JobStory, work: Json, numbers: Sequence[int]) -> Json:
    """What a lease did, on which machine: as its provider said and signed it when it began, where it did.

    `signed_rounds`: for how many of the rounds its worker signed, where anybody's worker did.
    """
    granted = story.granted[work["lease"]].event
    started = story.started.get(work["lease"])
    machine = None if started is None else started.event.get("machine")
    found = {**work, "gpu": granted["gpu"], "gpus": granted["gpus"]}
    if any(number in story.signed for number in numbers):
        words = [word for number in numbers for word in worker_words(story, number) if word.lease == work["lease"]]
        found |= {"signed_rounds": len(words)}
    return found if not machine else found | {"machine": machine}


def _metrics(story: JobStory, numbers: Sequence[int]) -> list[Json]:
    """Round by round: what members lost on their own data, and the held-out figures where they were taken."""
    found = []
    for number in numbers:
        event = story.rounds[number].event
        losses = [member["loss"] for member in event["members"] if member["loss"] is not None]
        row: Json = {"round": number, "parameters_sha256": event["digest"], "train_losses": losses}
        if number in story.evaluated:
            held_out = story.evaluated[number].event
            row |= {"held_out_loss": held_out["loss"], "held_out": held_out.get("metrics", {})}
        found.append(row)
    return found


def _charges(story: JobStory, segment: Logged) -> list[Json]:
    """The charges of the segment's record, each with the ids of its transfers in the ledger."""
    transfers = [one.event for one in story.transfers.get(segment.record, []) if one.ordinal < segment.ordinal]
    names = ("lease", "epoch", "from_ms", "to_ms", "amount_nanos", "fee_nanos")
    return [
        {name: one.event[name] for name in names}
        | {"transfers": [row["id"] for row in transfers if row["lease"] == one.event["lease"]]}
        for one in story.charges.get(segment.record, [])
        if one.ordinal < segment.ordinal
    ]


def _numbers(said: Mapping[str, Any]) -> list[int]:
    return list(range(said["rounds"]["first"], said["rounds"]["last"] + 1))


def _place(one: Logged) -> Place:
    return [one.record, one.ordinal]


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
