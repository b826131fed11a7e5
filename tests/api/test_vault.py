"""Sealed secrets: on the disk, over HTTP, and nowhere else."""

import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.api.vault import Vault, VaultDamaged
from market.homes import write_file
from storage import home_files
from storage.journal_reader import read_journal
from tests.api.square import Square, refusal

CANARY = "canary-0f3c9e71"


def vault_in(folder: Path) -> Vault:
    return Vault(folder / "secrets", folder / "secrets.key")


@given(value=st.text(min_size=1, max_size=300).filter(lambda text: text.isprintable()))
def test_what_was_sealed_opens_for_its_owner_and_name_alone(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    vault = vault_in(tmp_path_factory.mktemp("vault"))
    token = vault.seal("ann", "A", value)
    assert vault.open("ann", "A", token) == value
    for member, name in (("bob", "A"), ("ann", "B")):
        with pytest.raises(VaultDamaged):
            vault.open(member, name, token)


def test_files_are_closed_and_hold_no_value_in_the_clear(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    token = vault.seal("ann", "A", CANARY)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert not any(CANARY.encode() in path.read_bytes() for path in files)
    assert vault_in(tmp_path).open("ann", "A", token) == CANARY, "also after a restart"


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_changed_byte_is_found(tmp_path: Path, place: int) -> None:
    vault = vault_in(tmp_path)
    path = tmp_path / "secrets" / vault.seal("ann", "A", CANARY)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)
    with pytest.raises(VaultDamaged) as found:
        vault.open("ann", "A", path.name)
    assert CANARY not in str(found.value)


def test_a_secret_without_its_key_is_lost_and_says_so(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    token = vault.seal("ann", "A", CANARY)
    (tmp_path / "secrets.key").unlink()
    with pytest.raises(VaultDamaged, match="does not open with this market"):
        vault.open("ann", "A", token)
    (tmp_path / "secrets.key").write_text("no key\n")
    with pytest.raises(VaultDamaged, match="key of 32 bytes"):
        vault.seal("ann", "B", CANARY)


def test_what_the_journal_does_not_name_goes_when_the_market_opens(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    kept, cut_off = vault.seal("ann", "A", "1"), vault.seal("ann", "A", "2")
    vault.keep_only({kept})
    assert vault.open("ann", "A", kept) == "1"
    with pytest.raises(VaultDamaged):
        vault.open("ann", "A", cut_off)


class Cut(Exception):
    """The process was killed here."""


def all_open(folder: Path, named: list[tuple[str, str, str]]) -> bool:
    return all(vault_in(folder).open(*one) == f"value of {one[1]}" for one in named)


@pytest.mark.parametrize("written", [False, True], ids=["before the write", "after it"])
@pytest.mark.parametrize("place", range(6))
def test_a_new_key_that_is_cut_off_anywhere_leaves_every_secret_readable_and_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, written: bool
) -> None:
    vault, key_file, count = vault_in(tmp_path), tmp_path / "secrets.key", 0
    named = [("ann", name, vault.seal("ann", name, f"value of {name}")) for name in "ABCD"]
    old = key_file.read_text()

    def write(path: Path, content: bytes, *, mode: int) -> None:
        nonlocal count
        count += 1
        if count <= place or written:
            write_file(path, content, mode=mode)
        if count > place:
            path.with_name(f".{path.name}.cut").write_bytes(content)
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr("market.api.vault.write_file", write)
        with pytest.raises(Cut):
            vault.rekey(named)
    assert all_open(tmp_path, named)
    added = vault_in(tmp_path).seal("ann", "E", "value of E")
    named.append(("ann", "E", added))

    opened = vault_in(tmp_path)
    opened.keep_only({token for _, _, token in named})  # as a market that opens does
    opened.finish_rekey(named)
    assert all_open(tmp_path, named)
    assert len(key_file.read_text().split()) == 1
    assert (key_file.read_text() == old) == (place == 0 and not written)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")], "no key lies about"

    assert vault_in(tmp_path).rekey(named).sealed == 5
    assert all_open(tmp_path, named)
    key_file.write_text(old)
    for one in named:
        with pytest.raises(VaultDamaged):
            vault_in(tmp_path).open(*one)


def test_what_no_key_opens_stays_and_is_named_when_the_key_is_renewed(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    tokens = [vault.seal("ann", name, name) for name in "ABC"]
    whole = (tmp_path / "secrets" / tokens[1]).read_bytes()
    (tmp_path / "secrets" / tokens[1]).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (tmp_path / "secrets" / tokens[2]).unlink()
    done = vault.rekey(list(zip(["ann"] * 3, "ABC", tokens, strict=True)))
    assert (done.sealed, done.damaged) == (1, ("ann B", "ann C"))
    assert vault.open("ann", "A", tokens[0]) == "A"


def test_who_reads_while_the_key_is_renewed_sees_nothing_of_it(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    named = [("ann", name, vault.seal("ann", name, f"value of {name}")) for name in "AB"]
    over, wrong = threading.Event(), list[Exception]()

    def read() -> None:
        reader = vault_in(tmp_path)
        while not over.is_set():
            try:
                assert reader.open(*named[0]) == "value of A"
            except Exception as error:  # noqa: BLE001  told below
                wrong.append(error)
                return

    reading = [threading.Thread(target=read) for _ in range(2)]
    for one in reading:
        one.start()
    for _ in range(60):
        vault.rekey(named)
    over.set()
    for one in reading:
        one.join()
    assert wrong == []


def test_a_backup_has_a_key_that_opens_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the key was renewed while the backup read the home."""
    vault, read = vault_in(tmp_path), home_files._read
    named = [("ann", "A", vault.seal("ann", "A", "value of A"))]
    times = 0

    def renewed_meanwhile(home: Path, paths: list[Path]) -> Iterator[tuple[str, bytes, int]]:
        nonlocal times
        times += 1
        for number, one in enumerate(read(home, paths)):
            if times <= 2 and number == 0:
                vault.rekey(named)
            yield one

    monkeypatch.setattr(home_files, "_read", renewed_meanwhile)
    restored = tmp_path / "restored"
    (restored / "secrets").mkdir(parents=True)
    for name, content, _ in home_files.whole_small_files(tmp_path):
        (restored / name).write_bytes(content)
    assert times == 3
    assert all_open(restored, named)


def test_an_operator_renews_the_key_while_secrets_are_used(square: Square) -> None:
    _, ann = square.newcomer("customer")
    ann.set_secret("TOKEN", CANARY)
    before = square.home.secrets_key_file.read_text()
    assert refusal(ann.rekey_secrets).status == 403
    told = square.local("operator").rekey_secrets()
    assert told["sealed"] >= 1
    assert told["damaged"] == []
    assert square.home.secrets_key_file.read_text() != before
    assert ann.remove_secret("TOKEN")["removed"]


def test_a_value_goes_in_and_never_comes_out(square: Square) -> None:
    _, ann = square.newcomer("customer")
    first = ann.set_secret("TOKEN", CANARY + "-first")
    assert first["used_by"] == []
    assert ann.set_secret("TOKEN", CANARY)["set_ms"] >= first["set_ms"]
    assert [one["name"] for one in ann.secrets()] == ["TOKEN"]
    headers = {"Authorization": f"Bearer {ann._wire._key}"}
    with httpx2.Client(base_url=square.url, timeout=30, headers=headers) as http:
        answers = [http.get("/v1/secrets").text, http.put("/v1/secrets/TOKEN", json={"value": CANARY + "\0"}).text]
        answers += [http.put("/v1/secrets/TOKEN", json={"value": [CANARY]}).text]
        answers += [http.put("/v1/secrets/TORG_X", json={"value": CANARY}).text, http.get("/metrics").text]
        assert http.put("/v1/secrets/TORG_X", json={"value": CANARY}).status_code == 422
    assert not any(CANARY in answer for answer in answers)
    files = [path for path in square.home.root.rglob("*") if path.is_file()]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert len(list(square.home.secrets.iterdir())) == len(square_tokens(square)), (
        "replaced and refused values are gone"
    )
    assert ann.remove_secret("TOKEN") == {"name": "TOKEN", "removed": True}
    assert ann.secrets() == []


def square_tokens(square: Square) -> set[str]:
    """Tokens that the journal still names, by its own words."""
    named: dict[tuple[str, str], str] = {}
    for record in read_journal(square.home.journal):
        for event in json.loads(record.payload)["events"]:
            if event["type"] == "secret_set":
                named[event["member"], event["name"]] = event["token"]
            elif event["type"] == "secret_removed":
                del named[event["member"], event["name"]]
    return set(named.values())
