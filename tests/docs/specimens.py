"""One small specimen of every format of docs/FORMATS.md, made by the code as it is; tests/golden/ holds their bytes.

Everything is fixed (times, ids, keys), so the same code gives the same bytes. A golden file changes only together with
the version of its format.
"""

import json
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from cli.invites import Invite, write_invite
from market.packing import pack
from storage.artifacts import Artifact, Artifacts
from storage.backups import write_backup
from storage.blobs import BlobStore
from storage.canonical import canonical_bytes
from storage.checkpoints import Chunk, Delta, Manifest, TensorEntry
from storage.journal import Journal
from storage.journal_format import Place
from storage.ledger import Transfer
from storage.log_proofs import logged
from storage.mirrors import Mirror
from storage.object_stores import open_store
from storage.parts import Parts
from storage.provenance import (
    Charge,
    Segment,
    SegmentOutputs,
    Work,
    bundle_bytes,
    load_bundle,
    make_bundle,
    make_statement,
    statement_digest,
)
from storage.provenance_bundles import make_provenance_bundle, sums_of
from storage.records import encode_record
from storage.saved import BLOCK_BYTES, Block, Saved, SavedFile
from storage.sealing import seal_segment
from storage.segment_statements import statements_of, story_of
from storage.snapshots import write_snapshot
from storage.transfer_batches import TransferBatch
from storage.tree_heads import TreeHead
from trainers.codecs import codec
from trainers.frames import pack as pack_frame
from trainers.layout import layout_of
from trainers.member import Member, RoundOrder
from trainers.options import strategy_options

GOLDEN = Path(__file__).parent.parent / "golden"
AT_MS = 1_795_000_000_000
SIGNING_KEY = bytes(range(32))
STRATEGY = {"name": "diloco", "inner_steps": 2, "outer_lr": 0.7, "outer_momentum": 0.9, "codec": "identity"}
TENSOR = np.array([0.5, -0.25, 0.0, 1.0, -1.0, 0.125], dtype=np.float32)
INVITE = Invite("http://10.0.0.1:8470", "torg_key")
FRAME = ("load", {"spec": {"name": "tiny"}, "data": None}, b"print('hello')\n")


def digest(text: str) -> str:
    """A digest to name something by."""
    return sha256(text.encode()).hexdigest()


def record(*events: dict[str, Any]) -> bytes:
    """The payload of a record."""
    return canonical_bytes({"v": 1, "at_ms": AT_MS, "events": list(events)})


def member(name: str, role: str) -> dict[str, Any]:
    """The event that lets somebody in."""
    return {"type": "member_added", "member": name, "role": role, "key_sha256": digest(name)}


OPENED = {"type": "market_opened", "market_id": "market-1", "fee_ppm": 50_000, "version": "0.1.0"}
DEPOSIT = Transfer("deposit-1", "deposit", "world", "wallet:ann", 20_000_000_000).event()
APPENDS = (
    (record(OPENED), record(member("op", "operator"), member("ann", "customer"))),
    (record(member("Åse", "provider")),),
)
REOPENED = ((record(DEPOSIT),),)


def write_journal(folder: Path) -> None:
    """Two appends, then the journal is opened again for a third: two segments, two terms."""
    for appends in (APPENDS, REOPENED):
        with Journal.open(folder) as journal:
            for payloads in appends:
                journal.append(payloads)


def make_snapshot(folder: Path) -> bytes:
    """A snapshot at the journal's third record, with two sections of which one is empty."""
    (folder / "snapshots").mkdir()
    place = Place(1, 604, 3, digest("a chain hash"))
    sections = {"state": b'{"balance":1}', "past": b""}
    return write_snapshot(folder / "snapshots", place, AT_MS, sha256(b"a shape").digest(), sections).read_bytes()


def make_sealed(folder: Path) -> bytes:
    """The journal's first segment, in two blocks."""
    write_journal(folder)
    seal_segment(folder, 1, block_bytes=300)
    return (folder / f"{1:020d}.sealed").read_bytes()


def make_mirror(folder: Path) -> dict[str, bytes]:
    """The objects of a mirror of that journal, which was copied after each append: one segment whole, one in parts."""
    journal, store = folder / "mirrored", open_store(str(folder / "objects"))
    mirror = Mirror(store, journal, "market-1")
    with Journal.open(journal) as first:
        mirror.open(first.durable, begun=False)
        for payloads in APPENDS:
            first.append(payloads)
            mirror.ship(first.durable)
    with Journal.open(journal) as second:
        mirror.ship(second.durable)
        mirror.tidy(second.durable)
        for payloads in (*REOPENED, (record(member("bob", "provider")),)):
            second.append(payloads)
            mirror.ship(second.durable)
    return {f"mirror/{one.name}": store.get(one.name) for one in store.list()}


def make_member() -> Member:
    """Six parameters after one round of two workers."""
    spec = {"strategy": strategy_options(STRATEGY), "steps": 4, "seed": 1}
    layout = layout_of([("w", (2, 3))])
    group = [Member(spec, layout, TENSOR, slot=slot, epoch=7 + slot) for slot in (0, 1)]
    order = RoundOrder(1, 0, 2, 4, (0, 1))
    for one, share in zip(group, (0.5, 0.25), strict=True):
        one.contribute(TENSOR - np.float32(share), order)
    group[0].merge({one.slot: one.payload() for one in group})
    group[0].commit()
    return group[0]


def _bundle() -> bytes:
    """What the round of `make_member` merged."""
    bundle = make_member().bundle
    assert bundle is not None
    return bundle.pack()


def make_manifest(version: int = 1) -> Manifest:
    """The checkpoint of `make_member`, a base."""
    member_ = make_member()
    state = member_.export()
    return Manifest(
        job="job-1", round=1, step=2, parent=None, tensors=(TensorEntry("w", (2, 3), "float32"),),
        state=sha256(state).hexdigest(), state_bytes=len(state), parameters=member_.digest(), strategy=STRATEGY,
        code=None, data=digest("data"), created_at_ms=AT_MS, version=version,
    )  # fmt: skip


def make_delta_manifest() -> Manifest:
    """The checkpoint a round after `make_manifest`: one delta, the inner optimiser's state, a tensor of two names."""
    base = replace(make_manifest(version=2), inner=digest("inner"), inner_bytes=72, tied={"head": "w"})
    delta = Delta(round=2, step=4, blob=digest("bundle"), bytes=61, parameters=digest("parameters"))
    return replace(
        base, round=2, step=4, parent=base.digest, kind="delta", base=base.digest, deltas=(delta,),
        parameters=delta.parameters, created_at_ms=AT_MS + 1_000,
    )  # fmt: skip


def make_chunked_manifest() -> Manifest:
    """The same, whose base is in two chunks."""
    made = make_buffers_manifest()
    chunks = (Chunk(digest("head"), 40), Chunk(digest("tensors"), made.state_bytes - 40))
    return replace(made, version=4, chunks=chunks)


def make_buffers_manifest() -> Manifest:
    """The same, of a model that keeps buffers."""
    base = replace(make_delta_manifest(), version=3, buffers=digest("buffers"), buffers_bytes=96)
    return replace(base, base=digest("base"), parent=digest("base"))


def make_second_proof() -> dict[str, Any]:
    """Made anew of the events in the golden bundle: statements, envelopes, sums, digest and signatures."""
    body = load_bundle((GOLDEN / "bundle-2.json").read_bytes())["body"]
    shown = {name: body[name] for name in ("market", "job", "records", "hashes")}
    story = story_of(logged(shown))
    proof = {**shown, "statements": statements_of(body["market"], story), "totals": sums_of(story)}
    return make_provenance_bundle(proof, TreeHead.parse(body["head"]), SIGNING_KEY)


def make_proof() -> dict[str, Any]:
    """A job of one segment: held 1 000 000, charged 300 000 (15 000 of it fee), the rest released."""
    manifest = make_manifest()
    segment = Segment(
        job="job-1", segment=1, first_round=1, last_round=1, first_step=0, last_step=2, parent_statement=None,
        parent_manifest=None, code=None, code_label="builtin:byte_lm", data=manifest.data, data_label="data",
        order_seed=1, hyperparameters={"strategy": STRATEGY, "steps": 4, "seed": 1},
        work=(Work("lease-000001", 1, 0, "p1", 1, 2, 512, 3_000, 2_500),),
        outputs=SegmentOutputs(manifest.digest, None, manifest.parameters),
        charges=(Charge("lease-000001", 1, 0, 3_000, 300_000, 15_000),),
    )  # fmt: skip
    statement = make_statement(segment)
    transfers = (
        Transfer("hold:job-1", "hold", "wallet:ann", "escrow:job-1", 1_000_000, "job-1"),
        Transfer("charge:lease-000001:3000", "charge", "escrow:job-1", "earnings:p1", 285_000, "job-1", "lease-000001"),
        Transfer("fee:lease-000001:3000", "fee", "escrow:job-1", "fee", 15_000, "job-1", "lease-000001"),
        Transfer("release:job-1", "release", "escrow:job-1", "wallet:ann", 700_000, "job-1"),
    )
    assert statement_digest(statement)
    spec = {"name": "tiny", "steps": 4}
    return make_bundle("job-1", spec, [statement], transfers, journal=(4, "0" * 64), signing_key=SIGNING_KEY)


def write_tar(folder: Path) -> bytes:
    """The data `a.txt` and `deep/b.bin` of a folder, as a job uploads them; files are made in another order."""
    source, target = folder / "data", folder / "data.tar"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "b.bin").write_bytes(bytes(range(8)))
    (source / "a.txt").write_text("hello\n", encoding="utf-8")
    pack(source, target)
    return target.read_bytes()


def make_artifacts() -> Artifacts:
    """Two files that a command left, one of them a program."""
    files = (Artifact("out/model.pt", digest("model"), 1_500_000), Artifact("run.sh", digest("run"), 20, True))
    return Artifacts("job-1", 2, files, ("*.onnx",), 1)


def make_parts() -> Parts:
    """A working folder of three parts."""
    return Parts(((digest("first"), 65_536), (digest("second"), 1_048_576), (digest("third"), 10_240)))


def make_saved() -> Saved:
    """A file of two blocks, an empty one, and a program."""
    blocks = (Block(digest("first"), BLOCK_BYTES), Block(digest("second"), 451_424))
    files = (
        SavedFile("empty", (), False, 1_763_900_000_000_000_000),
        SavedFile("run.sh", (Block(digest("run"), 20),), True, 0),
        SavedFile("step-500/model.pt", blocks, False, 1_763_900_000_123_456_789),
    )
    return Saved("job-1", 2, files, 1)


def make_small() -> bytes:
    """Formats of a few bytes together: frame and identity codec in hex, the invitation as it is printed."""
    small = {
        "frame": pack_frame(*FRAME).hex(),
        "identity": codec("identity").encode(TENSOR).hex(),
        "invite": write_invite(INVITE),
    }
    return json.dumps(small, indent=2).encode() + b"\n"


CODECS = (
    "fp16", "bf16", "fp4", "int2", "sign1", "top_k:1/2+identity", "top_k:2/5+fp16", "top_k:1/300+sign1",
    "prune:0.5+bf16", "dct:64+identity", "dct:2+top_k:1/4096+fp16",
)  # fmt: skip


def make_contributions() -> bytes:
    """The tensor by several codecs, as a matrix of two rows, in hex."""
    layout = layout_of([("w", (2, 3))])
    made = {text: codec(text, layout).encode(TENSOR).hex() for text in CODECS}
    return json.dumps(made, indent=2).encode() + b"\n"


def make_backup(home: Path) -> bytes:
    """The journal of `write_journal`, a blob that it does not need, settings and what a job printed; not encrypted."""
    write_journal(home / "journal")
    BlobStore(home / "blobs").put(b"nobody needs this")
    (home / "logs" / "jobs").mkdir(parents=True)
    for name, text in (("market.json", "{}\n"), ("format.json", '{\n  "home": 2\n}\n'), ("logs/jobs/job-1.log", "hello\n")):
        (home / name).write_text(text, encoding="utf-8")
        (home / name).chmod(0o644)
    made = BytesIO()
    write_backup(home, made, made_at_ms=AT_MS)
    return made.getvalue()


def make_transfers() -> bytes:
    """A packed record: booked transfers and one that was refused."""
    batch = TransferBatch.of(
        [
            Transfer("in-1", "deposit", "world", "wallet:ann", 20_000_000_000),
            Transfer("hold:j", "hold", "wallet:ann", "escrow:j", 5_000_000_000, "j"),
            Transfer("out-1", "payout", "earnings:p", "world", 7),
            Transfer("charge:l:9", "charge", "escrow:j", "earnings:p", 6, "j", "l"),
        ]
    )
    batch.statuses = bytes([0, 0, 1, 0])
    return encode_record(1_700_000_000_000, [{"type": "transfers", "batch": batch}])


def make_all(folder: Path) -> dict[str, bytes]:
    """Every golden file by its name below tests/golden/, made anew; `folder` is empty scratch."""
    write_journal(folder / "journal")
    made = {f"journal/{path.name}": path.read_bytes() for path in sorted((folder / "journal").glob("*.journal"))}
    return made | make_mirror(folder) | {
        "contribution.int8": codec("int8").encode(TENSOR),
        "contribution.json": make_contributions(),
        "state.safetensors": make_member().export(),
        "round.bundle": _bundle(),
        "manifest.json": make_manifest().encode(),
        "manifest-2.json": make_delta_manifest().encode(),
        "manifest-3.json": make_buffers_manifest().encode(),
        "manifest-4.json": make_chunked_manifest().encode(),
        "artifacts.json": make_artifacts().encode(),
        "saved.json": make_saved().encode(),
        "parts.json": make_parts().encode(),
        "bundle.json": bundle_bytes(make_proof()),
        "bundle-2.json": bundle_bytes(make_second_proof()),
        "data.tar": write_tar(folder),
        "small.json": make_small(),
        "transfers.bin": make_transfers(),
        f"{3:020d}.snapshot": make_snapshot(folder),
        "home.backup": make_backup(folder / "home"),
    }
