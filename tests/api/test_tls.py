"""TLS by certificate files: the market refuses files that it could not use, its clients whom they cannot trust."""

import json
import ssl
from pathlib import Path

import pytest

from cli.main import run
from cli.quick import QuickMarket
from market.client import Market, MarketUnreachable
from market.homes import Home
from market.supervisor import start, stop
from market.tls import TlsFiles, TlsRefused, check_files, client_context, reason_of, server_context
from tests.api.certificates import DAY, NOW, make_certificate
from tests.api.command_scene import CommandScene
from tests.api.square import Square


def handshake(files: TlsFiles, ca: Path | None, name: str) -> None:
    """A client meets a server, without sockets; raises what the client would."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(ca).wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context(files).wrap_bio(to_server, to_client, server_side=True)
    over = set()
    while len(over) < 2:
        for side in (client, server):
            try:
                side.do_handshake()
                over.add(side)
            except ssl.SSLWantReadError:
                continue


def test_who_is_trusted_and_why_not(tmp_path: Path) -> None:
    good = make_certificate(tmp_path / "good", "market.example", "127.0.0.1")
    handshake(good, good.certificate, "market.example")
    handshake(good, good.certificate, "127.0.0.1")
    expired = make_certificate(tmp_path / "expired", "market.example", since=NOW - 2 * DAY, until=NOW - DAY)
    early = make_certificate(tmp_path / "early", "market.example", since=NOW + DAY, until=NOW + 2 * DAY)
    for files, ca, name, said in (
        (good, None, "market.example", "signed by nobody that this machine trusts"),
        (good, expired.certificate, "market.example", "signed by nobody that this machine trusts"),
        (good, good.certificate, "other.example", "for another name"),
        (expired, expired.certificate, "market.example", "has expired"),
        (early, early.certificate, "market.example", "not valid yet"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError) as refused:
            handshake(files, ca, name)
        found = reason_of(ConnectionError("wrapped").with_traceback(None)), reason_of(refused.value)
        assert found[0] is None
        assert found[1] is not None
        assert said in found[1][0]
        assert found[1][1], "every one has a remedy"


def test_files_that_the_market_cannot_use_are_refused(tmp_path: Path) -> None:
    good = make_certificate(tmp_path / "good", "market.example")
    other = make_certificate(tmp_path / "other", "market.example")
    nameless = make_certificate(tmp_path / "nameless")
    readable = make_certificate(tmp_path / "readable", "market.example")
    readable.key.chmod(0o644)
    for files, now, field, said in (
        (TlsFiles(tmp_path / "no.pem", good.key), NOW, "--tls-cert", "No such file"),
        (TlsFiles(good.certificate, tmp_path / "no.pem"), NOW, "--tls-key", "No such file"),
        (TlsFiles(good.key, good.key), NOW, "--tls-cert", "no certificate in PEM"),
        (TlsFiles(good.certificate, other.key), NOW, "--tls-key", "is not the key of"),
        (TlsFiles(good.certificate, good.certificate), NOW, "--tls-key", "PEM"),
        (good, NOW + 2 * DAY, "--tls-cert", "has expired"),
        (good, NOW - 2 * DAY, "--tls-cert", "not valid before"),
        (nameless, NOW, "--tls-cert", "names no host"),
        (readable, NOW, "--tls-key", "read by everybody"),
    ):
        if files.key.exists() and files is not readable:
            files.key.chmod(0o600)
        with pytest.raises(TlsRefused) as refused:
            check_files(files, "127.0.0.1", now)
        assert refused.value.field == field, said
        assert said in refused.value.message
    assert check_files(good, "127.0.0.1", NOW) == "market.example", "its URL has a name that the certificate is for"
    assert check_files(good, "market.example", NOW) == "market.example"


@pytest.fixture
def secure(spare: Path, tmp_path: Path) -> Square:
    """A market that speaks https on loopback."""
    info = start(spare, no_ray=True, tls=make_certificate(tmp_path / "files", "127.0.0.1"))
    return Square(info.url, Home(spare))


def test_everybody_follows_a_market_to_https(
    secure: Square, square: Square, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home, ca = secure.home, secure.home.ca
    assert secure.url.startswith("https://127.0.0.1:")
    key = home.read_keys()["operator"]
    for kind in (Market, QuickMarket):
        with kind(secure.url, key, ca=ca) as market:
            assert market.status()["url"] == secure.url
        for named, said in ((None, "signed by nobody"), (tmp_path / "no.pem", "cannot be read")):
            with kind(secure.url, key, ca=named, patience_s=0) as stranger, pytest.raises(MarketUnreachable) as away:
                stranger.healthz()
            assert said in away.value.reason, kind
            assert away.value.remedy is not None
            assert "--ca" in away.value.remedy
        for url, said in (
            (secure.url.replace("127.0.0.1", "localhost"), "another name"),
            (square.url.replace("http:", "https:"), "does not speak TLS"),
        ):
            with kind(url, key, ca=ca, patience_s=0) as market, pytest.raises(MarketUnreachable, match=said):
                market.healthz()
    for name in ("TORG_URL", "TORG_KEY", "TORG_CA"):
        monkeypatch.delenv(name, raising=False)
    assert run(["--home", str(home.root), "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["url"] == secure.url
    assert run(["--home", str(home.root), "sql", "SELECT 1 AS one", "--json"]) == 0, "the books answer behind it"
    elsewhere = ["--home", str(tmp_path), "--url", secure.url, "--key", key, "status"]
    assert run(elsewhere) == 4
    assert "TORG_CA" in capsys.readouterr().err
    monkeypatch.setenv("TORG_CA", str(ca))
    assert run(elsewhere) == 0
    again = start(home.root, no_ray=True)
    assert (again.url, again.fresh) == (secure.url, False)
    assert stop(home.root)


def test_sessions_go_over_https(secure: Square, tmp_path: Path) -> None:
    secure.ca = secure.home.ca
    folder = tmp_path / "machine"
    folder.mkdir()
    with CommandScene(secure, folder) as scene:
        data = bytes(range(256)) * 4000
        assert scene.exec("cat", given=data) == (0, data, b"")
    secure.close()
    assert stop(secure.home.root)


def test_up_says_what_is_wrong_with_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_certificate(tmp_path / "files", "127.0.0.1", since=NOW - 2 * DAY, until=NOW - DAY)
    up = ["--home", str(tmp_path / "home"), "up", "--ray", "none", "--tls-cert", str(files.certificate)]
    assert run(up) == 2
    assert "--tls-key is missing" in capsys.readouterr().err
    assert run([*up, "--tls-key", str(files.key)]) == 3
    assert "has expired" in capsys.readouterr().err
    assert not Home(tmp_path / "home").market_file.exists()
