"""Sealed secrets: on the disk, over HTTP, and nowhere else."""

import json
import stat
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.api.vault import Vault, VaultDamaged
from storage.journal_reader import read_journal
from tests.api.square import Square

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
    with pytest.raises(VaultDamaged, match="not on the market's disk"):
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
