"""Bodies of what a job's run says: readings, rounds, checkpoints, tries of a command, and how it ended."""

from typing import Annotated, Literal

from pydantic import Field

from market.api.bodies import Body, Count, Digest, Id, Name, Positive, Signature, Text
from trainers.metrics import MAX_METRIC_NAME, MAX_METRICS


class ReadingBody(Body):
    lease: Id
    epoch: Count
    leased_ms: Count
    trained_ms: Count
    rounds: Count
    tokens: Count
    bytes: Count
    run_ms: Count | None = None
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")] = ""


class LostBody(Body):
    lease: Id
    epoch: Count
    reason: Name
    detail: Text = ""


class EvaluatedBody(Body):
    round: Positive
    loss: float
    metrics: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=MAX_METRIC_NAME)], float], Field(max_length=MAX_METRICS)
    ] = {}


class LogBody(Body):
    at_ms: Count
    source: Name
    line: Annotated[str, Field(max_length=16_384)]
    stream: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,128}$")] = ""
    number: Count = 0


class ReadingsBody(Body):
    job: Id
    run_pid: Count | None = None
    readings: Annotated[list[ReadingBody], Field(max_length=1024)] = []
    evaluated: Annotated[list[EvaluatedBody], Field(max_length=1024)] = []
    lost: Annotated[list[LostBody], Field(max_length=1024)] = []
    logs: Annotated[list[LogBody], Field(max_length=4096)] = []


class RoundMemberBody(Body):
    lease: Id
    epoch: Count
    slot: Count
    provider: Annotated[str, Field(max_length=64)] | None = None
    loss: float | None = None
    steps: Count
    tokens: Count
    leased_ms: Count
    trained_ms: Count
    bytes: Count
    contribution: Digest
    sent_bytes: Count = 0
    received_bytes: Count = 0
    stall_ms: Count = 0
    run_ms: Count | None = None


class WordBody(Body):
    """A worker's own word for its work in the round, by the key of its lease (storage/worker_statements.py)."""

    lease: Id
    epoch: Count
    signature: Signature
    parameters: Digest | None = None


class WarnedBody(Body):
    slot: Count
    reason: Text


class RoundBody(Body):
    job: Id
    round: Positive
    step: Count
    digest: Digest
    reason: Text
    duration_ms: Count
    members: Annotated[list[RoundMemberBody], Field(min_length=1, max_length=1024)]
    lost: Annotated[list[LostBody], Field(max_length=1024)] = []
    words: Annotated[list[WordBody], Field(max_length=1024)] = []
    strategy: Annotated[str, Field(max_length=64)] = ""
    tuning: Count | None = None
    attempts: Positive = 1
    late: Annotated[list[Count], Field(max_length=1024)] = []
    warned: Annotated[list[WarnedBody], Field(max_length=1024)] = []


class CheckpointBody(Body):
    job: Id
    round: Count
    step: Count
    manifest: Digest
    bytes: Count
    stall_ms: Count
    removed: Annotated[list[Digest], Field(max_length=4096)] = []
    kind: Literal["base", "delta"] = "base"
    base_round: Count | None = None


class AttemptBody(Body):
    job: Id
    number: Positive
    lease: Id
    epoch: Count
    kind: Annotated[str, Field(max_length=64)]
    code: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=0, le=255)] | None = None
    duration_ms: Count
    detail: Text = ""
    manifest: Digest | None = None


class SaveBody(Body):
    job: Id
    number: Positive
    lease: Id
    epoch: Count
    manifest: Digest
    bytes: Count


class HaltedBody(Body):
    state: Literal["paused", "done", "failed"]
    reason: Name
    detail: Annotated[str, Field(max_length=65_536)] = ""
    round: Count
    manifest: Digest | None = None
    run: Count | None = None
