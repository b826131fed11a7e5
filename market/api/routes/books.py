"""Questions about the past, answered by the books process from DuckDB."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from market.api.bodies import CosignatureBody, Nothing, SqlBody
from market.api.limits import StrictRoute
from market.api.problems import Problem
from market.api.services import Has, Operator, Someone, job_for
from market.hardware import listed_name
from storage.cosignatures import Cosignature, CosignedHead
from storage.invoice_bundles import make_invoice_bundle
from storage.provenance_bundles import make_provenance_bundle
from storage.tree_heads import BadHead, TreeHead

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["books"])

MOST_POINTS = 500  # as storage/prices.py has it, which needs duckdb
Text = Annotated[str | None, Query(max_length=64)]


@router.get("/billing")
async def billing(
    services: Has, caller: Someone, by: Text = None, since: Text = None, until: Text = None, job: Text = None
) -> dict[str, Any]:
    """Lines of one's own jobs or offers; an operator sees all."""
    params = {"by": by, "since": since, "until": until, "job": job}
    return await services.books.ask("billing", caller, services.desk.records, params)


@router.get("/prices")
async def prices(
    services: Has, caller: Someone, gpu: Text = None, region: Text = None, since: Text = None, until: Text = None,
    points: Annotated[int, Query(ge=0, le=MOST_POINTS)] = 0,
) -> dict[str, Any]:
    """What was asked and paid for a GPU-hour, by model and region; the same for every member, and without names."""
    params = {"gpu": None if gpu is None else listed_name(gpu), "region": region, "since": since, "until": until, "points": points}
    return await services.books.ask("prices", caller, services.desk.records, params)


@router.get("/invoices/{job}")
async def invoice(services: Has, caller: Someone, job: str) -> dict[str, Any]:
    """The bill of one job."""
    job_for(services, caller, job)
    return await services.books.ask("invoice", caller, services.desk.records, {"job": job})


@router.get("/invoices/{job}/bundle")
async def invoice_bundle(services: Has, caller: Someone, job: str) -> dict[str, Any]:
    """The invoice of one's own job with the proof of every line: checked offline by `torg verify`."""
    job_for(services, caller, job)
    proof = await services.books.ask("invoice_proof", caller, services.desk.records, {"job": job})
    head = _signed(services, proof.pop("size"), proof.pop("root"))
    return await _with_cosigned(services, caller, make_invoice_bundle(proof, head, services.signing_key), head.size)


@router.get("/jobs/{job}/provenance")
async def provenance(services: Has, caller: Someone, job: str) -> dict[str, Any]:
    """Where one's own job comes from, every segment of it, with the proof of each word: checked offline by `torg verify`."""
    job_for(services, caller, job)
    params = {"job": job, "market": services.exchange.market_id}
    proof = await services.books.ask("provenance_proof", caller, services.desk.records, params)
    head = _signed(services, proof.pop("size"), proof.pop("root"))
    return await _with_cosigned(services, caller, make_provenance_bundle(proof, head, services.signing_key), head.size)


@router.get("/log")
async def log_head(
    services: Has, caller: Someone, old: Annotated[int | None, Query(ge=1)] = None,
    new: Annotated[int | None, Query(ge=1)] = None,
) -> dict[str, Any]:
    """A signed head of the market's log; with `old`, also the proof that it begins with what it was at that size.

    Without `new` also what members have cosigned, each with the proof that the log begins with it.
    """
    cosigned = services.cosigned.newest() if new is None else []  # before the head: it is the newer one
    params = {"old": old, "new": new, "sizes": _sizes(cosigned)}
    found = await services.books.ask("log", caller, services.desk.records, params)
    answer: dict[str, Any] = {"head": _signed(services, found["size"], found["root"]).to_json()}
    if new is None:
        answer["cosigned"] = _proven(cosigned, found["paths"])
    return answer | {name: found[name] for name in ("old", "path") if name in found}


@router.post("/log/cosignatures", status_code=201)
async def cosign(services: Has, caller: Someone, body: CosignatureBody) -> dict[str, Any]:
    """A member has seen a head of this market, which held with all that it had seen, and says so with a key of its own."""
    try:
        head = TreeHead.parse(body.head.model_dump())
        if (head.market, head.public_key) != (services.exchange.market_id, services.public_key):
            raise BadHead(f"it is a head of {head.market} with the key {head.public_key[:16]}…, not of this market")
        services.cosigned.note(head, Cosignature(caller.name, body.public_key, body.at_s, body.signature))
    except BadHead as bad:
        raise Problem(422, "bad_cosignature", str(bad), field="head", remedy="ask for a head, and cosign that") from bad
    return {"member": caller.name, "public_key": body.public_key, "size": head.size}


async def _with_cosigned(services: Has, caller: Someone, bundle: dict[str, Any], size: int) -> dict[str, Any]:
    """The bundle, and beside what the market signs of it those heads that others cosigned."""
    cosigned = services.cosigned.newest(up_to=size)
    if not cosigned:
        return bundle
    found = await services.books.ask("log", caller, services.desk.records, {"new": size, "sizes": _sizes(cosigned)})
    return bundle | {"cosigned": _proven(cosigned, found["paths"])}


def _sizes(cosigned: list[CosignedHead]) -> list[int]:
    return sorted({one.head.size for one in cosigned})


def _proven(cosigned: list[CosignedHead], paths: dict[str, list[str]]) -> list[dict[str, Any]]:
    """With the proof of each; a log that has lost records cannot prove the larger ones, and shows them without."""
    return [one.to_json() | {"path": paths.get(str(one.head.size), [])} for one in cosigned]


def _signed(services: Has, size: int, root: str) -> TreeHead:
    market, now_ms = services.exchange.market_id, services.desk.now_ms()
    return TreeHead.signed(market, size, bytes.fromhex(root), now_ms, services.signing_key)


@router.post("/sql")
async def sql(services: Has, caller: Someone, body: SqlBody) -> dict[str, Any]:
    """One read-only statement over one's own books."""
    return await services.books.ask("sql", caller, services.desk.records, {"sql": body.sql})


@router.get("/books/verify")
async def verify(services: Has, caller: Operator) -> dict[str, Any]:
    """Every byte of the journal, the balance, and the projection against the journal."""
    return await services.books.ask("verify", caller, services.desk.records, {})


@router.post("/books/rebuild")
async def rebuild(services: Has, caller: Operator, _: Nothing) -> dict[str, Any]:
    """Make the projection anew from the journal."""
    return await services.books.ask("rebuild", caller, services.desk.records, {})
