"""Bodies of what moves money, and of disputes about it."""

from typing import Annotated, Literal

from pydantic import Field

from market.api.bodies import Body, Count, Id, Positive
from storage.transfer_batches import MAX_BATCH


class DepositBody(Body):
    id: Id | None = None
    account: Id
    amount_nanos: Positive


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


class CorrectionBody(Body):
    id: Id | None = None
    transfer: Annotated[str, Field(min_length=1, max_length=300)]
    amount_nanos: Positive | None = None
    reason: Annotated[str, Field(min_length=1, max_length=200)]


class PeriodBody(Body):
    through_ms: Count | None = None
