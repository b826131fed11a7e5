"""The API against its own OpenAPI page: whatever is sent, no failure of the market, and only answers that the page names.

A few examples a route, always the same, in the suite; `make fuzz EXAMPLES=500 SEED=7` for long runs by hand.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

from market.homes import LOCAL_MEMBERS, Home
from market.supervisor import start, stop
from tests.api.ownership import DOORS, Door, operations, route_of
from tests.api.square import USD, Square, make_offer, make_spec

EXAMPLES = int(os.environ.get("EXAMPLES", "4"))
load_all_checks()
_CHECKS = ("status_code_conformance", "content_type_conformance", "response_schema_conformance", "response_headers_conformance")  # fmt: skip
CONFORMS = [CHECKS.get_one(name) for name in _CHECKS]
_ENTRY = {route_of(key): door for key, door in DOORS.items()}
Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A market of its own, because what is sent may stop it or revoke its members."""

    url: str
    keys: Json
    names: Json
    schema: Any
    session: requests.Session


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    home = Home(tmp_path_factory.mktemp("fuzzed"))
    square = Square(start(home.root, no_ray=True).url, home)
    customer, provider, operator = (square.local(name) for name in ("customer", "provider", "operator"))
    operator.deposit("funds", "customer", 100 * USD)
    customer.submit_job("job-open", make_spec("nowhere"))
    customer.submit_job("job-over", make_spec("nowhere"))
    customer.cancel_job("job-over")
    provider.place_offer(make_offer("offer-a", "elsewhere"))
    names = {"job": "job-open", "offer": "offer-a", "member": "provider", "account": "customer", "lease": "lease-1",
             "digest": customer.upload(b"some bytes"), "action": "drain"}  # fmt: skip
    with requests.Session() as session:
        schema = schemathesis.openapi.from_url(f"{square.url}/openapi.json")
        yield Target(square.url, home.read_keys(), names, schema, session)
    square.close()
    assert stop(home.root)
    log = home.log_file("exchange").read_text(encoding="utf-8")
    assert "bug while" not in log, log[-4000:]


def _key(target: Target, door: Door, number: int) -> str | None:
    """Mostly a key that opens the door, else another one, or none."""
    choice = [*door.roles * 3, *LOCAL_MEMBERS, ""][number % (3 * len(door.roles) + len(LOCAL_MEMBERS) + 1)]
    return target.keys.get(choice)


def _aim(case: Any, target: Target, number: int) -> None:
    """Put ids that exist where ids go, in two cases of three; and never wait for long."""
    real = dict(target.names)
    if case.operation.path.endswith("/events"):
        real["job"] = "job-over"  # the stream of a job that is open has no end
    if number % 3:
        for part in (case.path_parameters, case.query, case.body):
            if isinstance(part, dict):
                part.update({name: real[name] for name in real if isinstance(part.get(name), str)})
    if isinstance(case.query, dict) and isinstance(case.query.get("wait_s"), int | float):
        case.query["wait_s"] = min(case.query["wait_s"], 0.01)


@pytest.mark.parametrize("operation", sorted(one for one in operations() if not one.startswith("WEBSOCKET")))
def test_every_answer_is_one_that_the_page_names(target: Target, operation: str) -> None:
    method, _, path = operation.partition(" ")
    described = target.schema[path][method]
    cases = st.one_of(*(described.as_strategy(generation_mode=mode) for mode in GenerationMode))

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize="SEED" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases)
    def send(case: Any) -> None:
        number = crc32(repr((case.path_parameters, case.query, case.body)).encode())
        _aim(case, target, number)
        key = _key(target, _ENTRY[operation], number // 3)
        headers = {"Authorization": f"Bearer {key}"} if key else {"Authorization": ""}
        answer = case.call(base_url=target.url, session=target.session, headers=headers, timeout=60)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, checks=CONFORMS)

    send()
