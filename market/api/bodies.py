"""What members send, as pydantic models: strict types, no unknown fields, limits on every length.

Money in integer nano-dollars, time in integer milliseconds, digests as lower-case SHA-256 hex.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from market.hardware import MAX_UNITS
from market.invitations import LONGEST_INVITE_MS
from market.members import LONGEST_GRACE_MS
from market.owner_terms import DEFAULT_NOTICE_MS, LONGEST_NOTICE_MS, MOST_NAMED
from market.schedules import MOST_WINDOWS
from market.teams import MAX_QUOTA, MAX_WEIGHT
from storage.garbage import GRACE_MS, MIN_GRACE_MS
from storage.transfer_batches import MAX_BATCH
from trainers.metrics import MAX_METRIC_NAME, MAX_METRICS

ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DIGEST = r"^[0-9a-f]{64}$"
INT64_MAX = 2**63 - 1

Id = Annotated[str, Field(pattern=ID)]
Digest = Annotated[str, Field(pattern=DIGEST)]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Text = Annotated[str, Field(max_length=4096)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
Positive = Annotated[int, Field(ge=1, le=INT64_MAX)]


class Body(BaseModel):
    """Unknown fields are refused, numbers are numbers, NaN and infinities are not."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Nothing(Body):
    """No fields."""


class MemberBody(Body):
    member: Id
    role: Literal["customer", "provider", "operator", "plane"]


class InviteBody(Body):
    """`member`: the name that whoever joins must take."""

    role: Literal["customer", "provider", "operator"]
    team: Id | None = None
    member: Id | None = None
    for_ms: Annotated[int, Field(ge=1, le=LONGEST_INVITE_MS)] = 3 * 86_400_000


class JoinBody(Body):
    """`key_sha256`: of the key that the newcomer has made and keeps."""

    code: Annotated[str, Field(min_length=1, max_length=256)]
    member: Id | None = None
    key_sha256: Digest


class RoleBody(Body):
    role: Literal["customer", "provider", "operator"]


class SuspendBody(Body):
    reason: Annotated[str, Field(max_length=200)] = ""


class RotateBody(Body):
    grace_ms: Annotated[int, Field(ge=0, le=LONGEST_GRACE_MS)] = 3_600_000


class TeamBody(Body):
    """None keeps what is; `quota_units` 0: no quota."""

    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] | None = None
    quota_units: Annotated[int, Field(ge=0, le=MAX_QUOTA)] | None = None


class LimitsBody(Body):
    """A field that is not there keeps what is; null: no limit."""

    per_day_nanos: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = None
    per_month_nanos: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = None

    def said(self) -> dict[str, int | None]:
        """Only what the body names."""
        return self.model_dump(include=self.model_fields_set)


class MoveBody(Body):
    team: Id | None


class SecretBody(Body):
    value: Annotated[str, Field(min_length=1, max_length=32_768, pattern=r"^[^\x00]*$")]


class DepositBody(Body):
    id: Id | None = None
    account: Id
    amount_nanos: Positive


class GrantBody(Body):
    """To a member or to a team, one of the two."""

    id: Id | None = None
    member: Id | None = None
    team: Id | None = None
    amount_nanos: Positive
    expires_ms: Positive | None = None
    reason: Annotated[str, Field(min_length=1, max_length=200)]


class DisputeBody(Body):
    """`amount_nanos` left out: all that the lease was charged."""

    id: Id | None = None
    lease: Id
    amount_nanos: Positive | None = None
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    evidence: Annotated[str, Field(max_length=4_000)] = ""


class DecisionBody(Body):
    """`amount_nanos`: a part of what is upheld; left out, all."""

    verdict: Literal["upheld", "rejected"]
    amount_nanos: Positive | None = None
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class PayoutBody(DepositBody):
    """A provider's account."""


class TransferRowBody(Body):
    """A deposit or a payout. What is wrong with one of them is its own status, not the whole request's."""

    id: Annotated[str, Field(max_length=64)]
    kind: Literal["deposit", "payout"] = "deposit"
    account: Annotated[str, Field(max_length=64)]
    amount_nanos: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    linked: bool = False


class TransfersBody(Body):
    transfers: Annotated[list[TransferRowBody], Field(min_length=1, max_length=MAX_BATCH)]


class CorrectionBody(Body):
    id: Id | None = None
    transfer: Annotated[str, Field(min_length=1, max_length=300)]
    amount_nanos: Positive | None = None
    reason: Annotated[str, Field(min_length=1, max_length=200)]


class PeriodBody(Body):
    through_ms: Count | None = None


class PriceHoursBody(Body):
    hours: Annotated[str, Field(max_length=64)]
    price_nanos_per_gpu_hour: int


class OfferBody(Body):
    id: Id | None = None
    name: Name
    gpu: Name
    gpus: Annotated[int, Field(ge=1, le=MAX_UNITS)]
    vram_gib: Annotated[float, Field(ge=0, le=1_000_000)]
    region: Annotated[str, Field(max_length=64)]
    price_nanos_per_gpu_hour: int
    floor_price_nanos_per_gpu_hour: int | None = None
    isolation: Literal["process", "sandbox"]
    measured: Annotated[dict[Name, float], Field(max_length=64)]
    shares: Annotated[list[Name], Field(max_length=256)]
    node: Annotated[str, Field(max_length=256)]
    versions: Annotated[dict[Name, Name], Field(max_length=32)]
    notice_ms: Annotated[int, Field(ge=0, le=LONGEST_NOTICE_MS)] = DEFAULT_NOTICE_MS
    until_ms: Positive | None = None
    prices: Annotated[list[PriceHoursBody], Field(max_length=MOST_WINDOWS)] = []
    zone: Annotated[str, Field(max_length=64)] = ""
    allow: Annotated[list[Id], Field(max_length=MOST_NAMED)] = []
    deny: Annotated[list[Id], Field(max_length=MOST_NAMED)] = []
    own: Annotated[list[Id], Field(max_length=MOST_NAMED)] = []
    max_units_per_customer: Annotated[int, Field(ge=1, le=MAX_UNITS)] | None = None
    max_unit_ms_per_customer_day: Positive | None = None
    network: bool = False
    environments: bool = False
    selftest: dict[str, Any] | None = None


class MeasuredBody(Body):
    """What was measured when the market asked for it, with the seed of its question."""

    seed: Annotated[int, Field(ge=0, le=2**31)]
    measured: Annotated[dict[Name, float], Field(min_length=1, max_length=64)]


class HoldBody(Body):
    gpus: Annotated[int, Field(ge=0, le=MAX_UNITS)]
    reason: Annotated[str, Field(max_length=64)] = "reclaim"
    why: Text = ""
    until_ms: Positive | None = None
    leases: Annotated[list[Id], Field(max_length=MAX_UNITS)] = []


class PriceBody(Body):
    price_nanos_per_gpu_hour: int


class QuoteBody(Body):
    spec: dict[str, Any]


class JobBody(Body):
    id: Id | None = None
    spec: dict[str, Any]


class BudgetBody(Body):
    id: Id | None = None
    add_nanos: Positive


class RetuneBody(Body):
    id: Id | None = None
    strategy: Annotated[str, Field(max_length=64)] | None = None
    options: Annotated[dict[Name, str | int | float | bool | None], Field(max_length=64)] = {}


class SessionBody(Body):
    """`argv` of an exec; `path` of a put or a get, relative to the working folder; a terminal's size and kind of a shell."""

    kind: Literal["exec", "shell", "put", "get"]
    argv: Annotated[list[Annotated[str, Field(max_length=128 << 10)]], Field(max_length=4096)] = []
    path: Annotated[str, Field(max_length=4096)] = ""
    rows: Annotated[int, Field(ge=0, le=65535)] = 0
    columns: Annotated[int, Field(ge=0, le=65535)] = 0
    term: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._+-]*$")] = ""
    timeout_ms: Annotated[int, Field(ge=1, le=7 * 86_400_000)] | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "SessionBody":
        if (self.kind == "exec") != bool(self.argv):
            raise ValueError("argv is for an exec, which needs it")
        if (self.kind in ("put", "get")) != bool(self.path):
            raise ValueError("path is for a put or a get, which needs it")
        if any("\0" in text for text in (*self.argv, self.path)):
            raise ValueError("there is a NUL in it")
        return self


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


class MissingBody(Body):
    digests: Annotated[list[Digest], Field(max_length=4_096)]


class CollectBody(Body):
    dry_run: bool = False
    grace_ms: Annotated[int, Field(ge=MIN_GRACE_MS, le=INT64_MAX)] = GRACE_MS


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


class PriceRuleBody(Body):
    rule: str


class RayBody(Body):
    address: Name
    token_path: Text


class HeadBody(Body):
    """A signed head of a market's log."""

    market: Id
    size: Positive
    root: Digest
    at_ms: Count
    public_key: Digest
    signature: Signature


class CosignatureBody(Body):
    """`public_key`, `signature`: of whoever cosigns; `at_s`: seconds since 1970."""

    head: HeadBody
    public_key: Digest
    at_s: Count
    signature: Signature


class SqlBody(Body):
    sql: Annotated[str, Field(min_length=1, max_length=65_536)]
