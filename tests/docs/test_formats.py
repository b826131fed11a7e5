"""docs/FORMATS.md is true: the code reads and writes the golden bytes, and a reader made from the page alone agrees."""

import base64
import hashlib
import json
import re
import struct
import tarfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.errors import CliError
from cli.invites import read_invite
from market.events import FIELDS
from market.exchange import Exchange, Settings
from market.homes import PROCESSES, Home, kept_key, write_json
from market.packing import PackingError, unpack
from storage.canonical import NotCanonical, parse_json
from storage.checkpoints import Manifest, ManifestError
from storage.journal import Journal, read_journal, segments, verify_journal
from storage.provenance import load_bundle, public_key_of, statement_digest, verify_bundle
from storage.records import spread_record
from tests.docs.specimens import (
    APPENDS,
    FRAME,
    GOLDEN,
    INVITE,
    REOPENED,
    SIGNING_KEY,
    TENSOR,
    make_all,
    make_buffers_manifest,
    make_chunked_manifest,
    make_delta_manifest,
    make_manifest,
)
from tests.storms.records import packed_by_the_page
from trainers.codecs import BadPayload, codec
from trainers.frames import BadFrame, Frame, Unpacker
from trainers.member import Member, MemberError

PAGE = (Path(__file__).parents[2] / "docs" / "FORMATS.md").read_text(encoding="utf-8")
# Homes are read for ever and written once, by the torg of their time: tests/storage/test_formats.py reads them. What another
# zlib makes of a sealed segment may have other bytes: tests/docs/test_sealed_formats.py reads that.
NAMES = sorted(path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*") if path.is_file() and path.parent.name not in ("homes", "sealed"))
SMALL = json.loads((GOLDEN / "small.json").read_text())


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make_all(tmp_path_factory.mktemp("made"))


# written as ever


def test_every_format_has_a_golden_file_and_they_are_small(made: dict[str, bytes]) -> None:
    assert sorted(made) == NAMES
    assert sum(len(golden(name)) for name in NAMES) <= 64 * 1024


@pytest.mark.parametrize("name", NAMES)
def test_the_code_writes_exactly_the_golden_bytes(name: str, made: dict[str, bytes]) -> None:
    assert made[name] == golden(name), (
        f"{name} changed: a new format needs a new version, and the old one stays readable"
    )


# a reader made from the page


class Refuse(ValueError):
    """The page says that a reader must refuse this."""


def demand(holds: bool, why: str) -> None:
    if not holds:
        raise Refuse(why)


def journal_by_the_page(folder: Path) -> list[tuple[int, bytes, str]]:
    """(number, payload, chain hash) of every record, by the tables under «Journal»; refuses a torn tail, too."""
    found: list[tuple[int, bytes, str]] = []
    before, number, term = bytes(32), 0, 0
    paths = sorted(path for path in folder.iterdir() if re.fullmatch(r"[0-9]{20}\.journal", path.name))
    for path in paths:
        data = path.read_bytes()
        demand(len(data) >= 96, "a header in part")
        demand(data[:8] == b"TORGJNL1", "magic of the segment")
        first, own_term = struct.unpack_from("<QQ", data, 8)
        demand(first == number + 1 == int(path.name[:20]), "first number")
        demand(own_term >= term, "term")
        demand(data[24:56] == before, "chain hash before the segment")
        demand(data[56:92] == bytes(36), "reserved bytes")
        demand(struct.unpack_from("<I", data, 92) == (zlib.crc32(data[:92]),), "CRC of the header")
        term, at = own_term, 96
        while at < len(data) and (path != paths[-1] or data[at:].strip(b"\0")):
            demand(len(data) >= at + 48, "a record's head in part")
            demand(data[at : at + 4] == b"TREC", "magic of the record")
            length, _, crc = struct.unpack_from("<III", data, at + 4)
            demand(length <= 67_108_864, "length")
            payload = data[at + 48 : at + 48 + length]
            demand(len(payload) == length, "a payload in part")
            demand(crc == zlib.crc32(data[at : at + 12] + data[at + 16 : at + 48] + payload), "CRC of the record")
            number += 1
            before = hashlib.sha256(before + struct.pack("<Q", number) + payload).digest()
            demand(data[at + 16 : at + 48] == before, "chain hash")
            found.append((number, payload, before.hex()))
            at += 48 + length
    return found


def int8_by_the_page(payload: bytes, elements: int) -> list[float]:
    """The elements, by the page's section «Contributions»."""
    chunks = [min(65_536, elements - start) for start in range(0, elements, 65_536)]
    demand(len(payload) == 12 + 1024 * len(chunks) + elements, "length")
    demand(payload[:12] == b"TQ8\x01" + struct.pack("<Q", elements), "magic and count")
    found: list[float] = []
    at = 12
    for size in chunks:
        codebook = struct.unpack_from("<256f", payload, at)
        demand(all(abs(value) <= 3.4028235e38 for value in codebook), "a codebook that is not finite")
        found += [codebook[place] for place in payload[at + 1024 : at + 1024 + size]]
        at += 1024 + size
    return found


# journal


def ours(folder: Path) -> list[tuple[int, bytes, str]]:
    return [(record.number, record.payload, record.hash) for record in read_journal(folder)]


def test_both_readers_read_the_golden_journal() -> None:
    folder = GOLDEN / "journal"
    expected = [payload for appends in (APPENDS, REOPENED) for payloads in appends for payload in payloads]
    found = ours(folder)
    assert [(number, payload) for number, payload, _ in found] == list(enumerate(expected, start=1))
    assert journal_by_the_page(folder) == found
    checked = verify_journal(folder)
    assert (checked.ok, checked.records, checked.head) == (True, len(expected), found[-1][2])


def test_the_golden_journal_replays() -> None:
    exchange = Exchange(Settings())
    for record in read_journal(GOLDEN / "journal"):
        body = parse_json(record.payload)
        assert body["v"] == 1
        exchange.replay(body["at_ms"], body["events"])
    assert exchange.market_id == "market-1"
    assert exchange.balance("ann")["wallet_nanos"] == 20_000_000_000
    assert [one["member"] for one in exchange.members()] == ["op", "ann", "Åse"]


appends_of_payloads = st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=3), max_size=4)


@settings(deadline=None, max_examples=30)
@given(lives=st.lists(appends_of_payloads, min_size=1, max_size=3))
def test_a_reader_made_from_the_page_reads_any_journal(
    lives: list[list[list[bytes]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    for appends in lives:
        with Journal.open(folder, segment_bytes=400) as journal:
            for payloads in appends:
                journal.append(payloads)
    found = journal_by_the_page(folder)
    assert [payload for _, payload, _ in found] == [one for life in lives for append in life for one in append]
    assert found == ours(folder)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_both_readers_refuse_any_changed_byte(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("changed")
    for path in segments(GOLDEN / "journal"):
        (folder / path.name).write_bytes(path.read_bytes())
    victim = data.draw(st.sampled_from(segments(folder)), label="segment")
    content = bytearray(victim.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1), label="at")] ^= data.draw(st.integers(1, 255), label="flip")
    victim.write_bytes(content)
    with pytest.raises(Refuse):
        journal_by_the_page(folder)
    assert not verify_journal(folder).ok


def test_the_page_lists_the_events_that_the_code_knows() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `([\w, ]+)` \|$", PAGE.partition("### Record payload")[2].partition("## ")[0], re.M
    )
    assert {kind: tuple(fields.split(", ")) for kind, fields in rows} == dict(FIELDS)


# frames


def test_the_golden_frame_is_read_byte_by_byte() -> None:
    sent = bytes.fromhex(SMALL["frame"])
    (length,) = struct.unpack_from(">I", sent)
    header = json.loads(sent[4 : 4 + length])
    assert (header["type"], header["raw"], sent[4 + length :]) == ("load", len(FRAME[2]), FRAME[2])
    unpacker = Unpacker(1 << 20, 16 << 20)
    for byte in sent[:-1]:
        unpacker.feed(bytes([byte]))
        assert unpacker.next() is None
    unpacker.feed(sent[-1:])
    assert unpacker.next() == Frame(*FRAME)


@pytest.mark.parametrize("limits", [(10, 1 << 20), (1 << 20, len(FRAME[2]) - 1)])
def test_a_frame_over_a_limit_is_refused(limits: tuple[int, int]) -> None:
    unpacker = Unpacker(*limits)
    unpacker.feed(bytes.fromhex(SMALL["frame"]))
    with pytest.raises(BadFrame):
        unpacker.next()


# contributions


def test_both_readers_decode_the_golden_contributions() -> None:
    payload = golden("contribution.int8")
    decoded = codec("int8").decode(payload, TENSOR.size)
    assert int8_by_the_page(payload, TENSOR.size) == decoded.tolist()
    width = 6 * float(np.sqrt(np.sum(TENSOR.astype(np.float64) ** 2) / (TENSOR.size - 1))) / 256
    assert np.abs(decoded - TENSOR).max() <= width
    plain = bytes.fromhex(SMALL["identity"])
    assert plain == b"TF4\x01" + struct.pack("<Q6f", TENSOR.size, *TENSOR.tolist())
    assert codec("identity").decode(plain, TENSOR.size).tolist() == TENSOR.tolist()


@settings(deadline=None, max_examples=15)
@given(elements=st.sampled_from([0, 1, 2, 300, 65_535, 65_536, 65_537, 140_000]), seed=st.integers(0, 2**16))
def test_a_reader_made_from_the_page_decodes_any_int8_contribution(elements: int, seed: int) -> None:
    tensor = np.random.default_rng(seed).normal(size=elements).astype(np.float32)
    payload = codec("int8").encode(tensor)
    assert int8_by_the_page(payload, elements) == codec("int8").decode(payload, elements).tolist()


INFINITE = struct.pack("<f", float("inf"))


@pytest.mark.parametrize(
    "payload",
    [
        golden("contribution.int8")[:-1],
        golden("contribution.int8") + b"\0",
        b"TQ8\x02" + golden("contribution.int8")[4:],
        golden("contribution.int8")[:4] + struct.pack("<Q", 7) + golden("contribution.int8")[12:],
        golden("contribution.int8")[:12] + INFINITE + golden("contribution.int8")[16:],
    ],
    ids=["short", "long", "magic", "count", "infinite"],
)
def test_both_readers_refuse_a_bad_contribution(payload: bytes) -> None:
    with pytest.raises(Refuse):
        int8_by_the_page(payload, TENSOR.size)
    with pytest.raises(BadPayload):
        codec("int8").decode(payload, TENSOR.size)


# outer state, manifest


def test_the_golden_state_is_restored() -> None:
    data = golden("state.safetensors")
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    described = json.loads(header.pop("__metadata__")["torg"])
    assert (described["v"], described["round"], described["step"], described["accepted"]) == (2, 1, 2, [0, 1])
    assert {name: (one["dtype"], one["shape"]) for name, one in header.items()} == {
        "parameters": ("F32", [6]), "momentum": ("F32", [6])
    }  # fmt: skip
    start, end = header["parameters"]["data_offsets"]
    parameters = data[8 + length + start : 8 + length + end]
    member = Member.restore(data)
    assert (member.round, member.step, member.accepted) == (1, 2, (0, 1))
    assert member.digest() == hashlib.sha256(parameters).hexdigest()
    assert member.export() == data


@pytest.mark.parametrize("change", ["version", "tensor", "finite"])
def test_a_state_of_another_kind_is_refused(change: str) -> None:
    data = golden("state.safetensors")
    tensors = safetensors.numpy.load(data)
    if change == "version":
        bad = data.replace(rb"\"v\":2", rb"\"v\":3")
    else:
        described = json.loads(data[8 : 8 + struct.unpack_from("<Q", data)[0]])["__metadata__"]
        extra = {"other": TENSOR} if change == "tensor" else {"parameters": tensors["parameters"] * np.float32("inf")}
        bad = safetensors.numpy.save({**tensors, **extra}, described)
    assert bad != data
    with pytest.raises(MemberError):
        Member.restore(bad)


def test_the_golden_manifest_names_itself_and_the_state() -> None:
    data = golden("manifest.json")
    manifest = Manifest.decode(data)
    assert manifest == make_manifest()
    assert manifest.digest == hashlib.sha256(data).hexdigest()
    assert manifest.state == hashlib.sha256(golden("state.safetensors")).hexdigest()
    assert manifest.parameters == Member.restore(golden("state.safetensors")).digest()
    assert manifest.encode() == data, "a manifest of version 1 keeps its name"


def test_the_golden_delta_names_its_base_and_every_round_since() -> None:
    every = (make_delta_manifest(), make_buffers_manifest(), make_chunked_manifest())
    for name, made in zip(("manifest-2.json", "manifest-3.json", "manifest-4.json"), every, strict=True):
        data = golden(name)
        manifest = Manifest.decode(data)
        assert manifest == made
        assert manifest.encode() == data
        assert manifest.digest == hashlib.sha256(data).hexdigest()
        assert (manifest.base_round, [delta.round for delta in manifest.deltas]) == (1, [2])
    page = section("Checkpoint manifest").partition("Version 1")
    fields, further = (
        set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", part, re.M)))) for part in (page[0], page[2])
    )
    assert fields == set(json.loads(data))
    assert further == set(json.loads(data)["deltas"][0])
    older = set(re.findall(r"`(\w+)`", page[2].split("\n\n")[0]))
    assert set(json.loads(golden("manifest-2.json"))) == fields - {"buffers", "buffers_bytes", "chunks"}
    assert set(json.loads(golden("manifest-3.json"))) == fields - {"chunks"}
    assert set(json.loads(data)) - older - {"buffers", "buffers_bytes", "chunks"} == set(json.loads(golden("manifest.json")))


@pytest.mark.parametrize(
    "change",
    [{"format": "torg-checkpoint-5"}, {"further": 1}, {"round": -1}, {"step": 1.0}, {"state": "A" * 64}],
    ids=["format", "further", "negative", "float", "digest"],
)
@pytest.mark.parametrize("name", ["manifest.json", "manifest-2.json", "manifest-3.json", "manifest-4.json"])
def test_a_manifest_that_breaks_a_rule_is_refused(name: str, change: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        Manifest.decode(json.dumps(json.loads(golden(name)) | change).encode())


@pytest.mark.parametrize(
    "change",
    [{"kind": "base"}, {"base": None}, {"deltas": []}, {"round": 3}, {"step": 5}, {"parameters": "0" * 64},
     {"inner": None}, {"buffers": "0" * 64}, {"format": "torg-checkpoint-3"}, {"tied": {"w": "w"}}, {"tied": {"head": "v"}}, {"format": "torg-checkpoint-1"}],
    ids=str,
)  # fmt: skip
def test_a_delta_that_does_not_fit_its_chain_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        Manifest.decode(json.dumps(json.loads(golden("manifest-2.json")) | change).encode())


@pytest.mark.parametrize(
    "change",
    [{"blob": "A" * 64}, {"bytes": 0}, {"bytes": 41}, {"further": 1}],
    ids=["digest", "empty", "another sum", "further"],
)
def test_a_chunk_that_breaks_a_rule_is_refused(change: dict[str, object]) -> None:
    manifest = json.loads(golden("manifest-4.json"))
    manifest["chunks"][0] |= change
    with pytest.raises(ManifestError):
        Manifest.decode(json.dumps(manifest).encode())


def test_twin_keys_are_refused() -> None:
    with pytest.raises(ManifestError):
        Manifest.decode(golden("manifest.json")[:-1] + b',"round":2}')
    with pytest.raises(NotCanonical):
        load_bundle(golden("bundle.json").rstrip()[:-1] + b',"signature":null}')


# bundle


def test_the_golden_bundle_verifies_and_is_signed() -> None:
    bundle = load_bundle(golden("bundle.json"))
    found = verify_bundle(bundle, public_key=public_key_of(SIGNING_KEY))
    assert found.ok, found
    assert not verify_bundle(bundle, public_key="0" * 64).ok
    canonical = json.dumps(bundle["body"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert bundle["digest"] == hashlib.sha256(canonical).hexdigest()
    assert bundle["body"]["statement_digests"] == [statement_digest(one) for one in bundle["body"]["statements"]]


def test_the_page_names_every_field_of_a_bundle() -> None:
    bundle, page = load_bundle(golden("bundle.json")), section("Provenance bundle of before")
    statement = bundle["body"]["statements"][0]
    predicate = statement["predicate"]
    for part in (bundle, bundle["body"], statement, predicate, predicate["work"][0], predicate["charges"][0],
                 predicate["outputs"], bundle["body"]["totals"], bundle["signature"]):  # fmt: skip
        missing = [name for name in part if re.search(rf"\b{name}\b", page) is None]
        assert not missing


def test_the_golden_bundle_of_the_second_format_verifies_and_the_page_names_its_fields() -> None:
    bundle, page = load_bundle(golden("bundle-2.json")), section("Provenance bundle")
    found = verify_bundle(bundle, public_key=public_key_of(SIGNING_KEY))
    assert found.ok, found
    statement = json.loads(base64.b64decode(bundle["body"]["statements"][-1]["payload"]))
    definition, details = (statement["predicate"][name] for name in ("buildDefinition", "runDetails"))
    parts = [
        bundle, bundle["body"], bundle["body"]["statements"][0], statement, definition, details, definition["externalParameters"],
        definition["internalParameters"], definition["internalParameters"]["committed"], details["metadata"],
        details["torg_work"][0], details["torg_metrics"][0], details["torg_charges"][0], details["torg_log"],
    ]  # fmt: skip
    missing = [name for part in parts for name in part if re.search(rf"\b{name}\b", page) is None]
    assert missing == []
    assert {one["event"]["type"] for record in bundle["body"]["records"] for one in record["events"]} <= set(re.findall(r"`(\w+)`", page))


# data


def test_the_golden_tar_unpacks_and_is_plain(tmp_path: Path) -> None:
    data = golden("data.tar")
    assert len(data) % 10_240 == 0
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == ["a.txt", "deep/b.bin"]
    assert {(e.isreg(), e.mode, e.mtime, e.uid, e.gid, e.uname, e.gname) for e in entries} == {
        (True, 0o644, 0, 0, 0, "", "")
    }
    assert unpack(BytesIO(data), tmp_path / "out") == 2
    assert (tmp_path / "out" / "deep" / "b.bin").read_bytes() == bytes(range(8))


@pytest.mark.parametrize("name", ["/a", "../a", "a/../../b", "a\\b"])
def test_a_tar_with_a_name_outside_is_refused(name: str, tmp_path: Path) -> None:
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(PackingError):
        unpack(BytesIO(made.getvalue()), tmp_path / "out")


# invitation, home


def test_the_golden_invitation_is_read() -> None:
    assert read_invite(f"  {SMALL['invite']}\n") == INVITE
    with_ray = "torg1_eyJ1cmwiOiJodHRwOi8vMTAuMC4wLjE6ODQ3MCIsImtleSI6InRvcmdfa2V5IiwicmF5IjoiMTAuMC4wLjE6NjM3OSJ9"
    assert read_invite(with_ray) == INVITE, "codes of before carry where Ray was"


@pytest.mark.parametrize("code", ["", "torg2_e30", "torg1_e30", "torg1_!!", SMALL["invite"][:-9]])
def test_an_invitation_that_is_not_whole_is_refused(code: str) -> None:
    with pytest.raises(CliError) as refused:
        read_invite(code)
    assert refused.value.code == "bad_invite"


def test_the_page_lists_the_paths_of_a_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make_folders()
    write_json(home.keys_file, {"operator": "k"}, mode=0o600)
    assert kept_key(home.signing_key_file) == kept_key(home.signing_key_file)
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert home.signing_key_file.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(rb"[0-9a-f]{64}\n", home.signing_key_file.read_bytes())
    page = section("Home folder")
    named = [home.market_file, home.keys_file, home.signing_key_file, home.lock_file, home.uploads_file,
             home.books_database, home.ray_file, home.books_file, home.log_key_file, home.log_index]  # fmt: skip
    for path in named:
        assert f"`{path.relative_to(home.root).as_posix()}`" in page
    for folder in (path for path in home.root.iterdir() if path.is_dir()):
        assert f"`{folder.name}/" in page
    for process in ("supervisor", *PROCESSES):
        assert f"`{process}`" in page


def section(title: str) -> str:
    """The page's text under a heading."""
    found = re.split(r"^## ", PAGE, flags=re.M)
    return next(part for part in found if part.startswith(title))


# packed transfers

def test_packed_transfers_are_read_as_the_page_says() -> None:
    data = golden("transfers.bin")
    at_ms, events = packed_by_the_page(data)
    assert at_ms == 1_700_000_000_000
    assert events == spread_record(data)["events"]
    assert [event["id"] for event in events if event["type"] == "transfer_refused"] == ["out-1"]
