"""Bodies of what a provider's host says of leases."""

from typing import Annotated

from pydantic import Field

from market.api.bodies import Body, Count, Name, Text


class MachineBody(Body):
    """What the worker runs on, signed by the provider's own key (docs/FORMATS.md, machines)."""

    facts: Annotated[dict[Name, int | Annotated[str, Field(max_length=256)]], Field(min_length=1, max_length=64)]
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class LeaseStartedBody(Body):
    epoch: Count
    worker: Name
    pid: Count
    node: Annotated[str, Field(max_length=256)]
    meter_key: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    machine: MachineBody | None = None


class LeaseEndedBody(Body):
    epoch: Count
    reason: Name
    detail: Text = ""
