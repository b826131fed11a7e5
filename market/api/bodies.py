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


class PriceHoursBody(Body):
    hours: Annotated[str, Field(max_length=64)]
    price_nanos_per_gpu_hour: int


Windows = Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=MOST_WINDOWS)]


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
    min_lease_ms: Positive | None = None
    max_lease_ms: Positive | None = None
    maintenance: Windows = []
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


class LeaseTimesBody(Body):
    """A field that is not there keeps what is; null: no bound. `maintenance`: all windows of the offer."""

    min_lease_ms: Positive | None = None
    max_lease_ms: Positive | None = None
    maintenance: Windows = []

    def said(self) -> dict[str, Any]:
        """Only what the body names."""
        return self.model_dump(include=self.model_fields_set)


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


class MissingBody(Body):
    digests: Annotated[list[Digest], Field(max_length=4_096)]


class CollectBody(Body):
    dry_run: bool = False
    grace_ms: Annotated[int, Field(ge=MIN_GRACE_MS, le=INT64_MAX)] = GRACE_MS


class PriceRuleBody(Body):
    rule: str


class DueRuleBody(Body):
    patience: int | None
    most_ms: int


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
