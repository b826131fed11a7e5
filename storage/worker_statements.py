"""What a worker says of a round that it gave its work to, signed with the key of its lease.

It is an in-toto statement of its own, whose bytes follow from the log's events, so only the signature travels:

    {"_type", "subject": [{"name": "JOB/parameters/ROUND", "digest": {"sha256": parameters}}],
     "predicateType": "urn:torg:worker-round:v1",
     "predicate": {"job", "round", "lease", "epoch", "steps", "tokens", "contribution"}}

Signed as DSSE asks (storage/dsse.py), so that statement and signature make an envelope that in-toto's tools read. The key is
the lease's own (`meter_key` of `lease_started`), which the provider names, and signs with its machine (storage/machines.py).
"""

from collections.abc import Mapping
from typing import Any, Final

from storage.canonical import canonical_bytes
from storage.dsse import PAYLOAD_TYPE, pre_authentication
from storage.signing import is_signed_by, sign
from storage.statements import STATEMENT_TYPE

WORKER_TYPE: Final = "urn:torg:worker-round:v1"
Json = dict[str, Any]


def worker_statement(job: str, round: int, parameters: str, work: Mapping[str, Any]) -> Json:
    """work: {lease, epoch, steps, tokens, contribution}, as of a member of `round_committed`; parameters: digest after it."""
    said = {name: work[name] for name in ("lease", "epoch", "steps", "tokens", "contribution")}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": f"{job}/parameters/{round}", "digest": {"sha256": parameters}}],
        "predicateType": WORKER_TYPE,
        "predicate": {"job": job, "round": round, **said},
    }


def sign_statement(statement: Mapping[str, Any], key: str) -> str:
    """The worker's signature, hex. key: the lease's private key, hex."""
    return sign(bytes.fromhex(key), pre_authentication(PAYLOAD_TYPE, canonical_bytes(statement)))


def is_statement_signed(statement: Mapping[str, Any], public_key: str, signature: str) -> bool:
    """Whether this key (hex) signed just this statement. Raises NoSignatures."""
    return is_signed_by(public_key, pre_authentication(PAYLOAD_TYPE, canonical_bytes(statement)), signature)
