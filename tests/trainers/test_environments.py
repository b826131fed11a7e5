"""Environments of requirements: built from wheels by a pip that can start nothing, used in the sandbox, kept by digest."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.trainers.wheels import make_sdist, make_wheel
from trainers import landlock
from trainers.command_process import CommandProcess, Place
from trainers.environments import building
from trainers.environments.building import (
    BuildCancelled,
    BuildTrouble,
    Built,
    Limits,
    RequirementsRefused,
    can_build,
    check,
    pinned_of,
)
from trainers.environments.layers import digest_of, own_base
from trainers.environments.store import ABOUT, Environments, Held
from trainers.environments.words import Verdict, last_words, verdict
from trainers.ready import wait_ready
from trainers.sandbox import Isolation, isolation_level

PATIENCE_S = 120
ROOT = Path(__file__).parents[2]
Take = Callable[..., Held]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which pip looks for wheels, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    empty = tmp_path / "pip.conf"
    empty.touch()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(empty))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def quickly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode is made in one test, which looks at it."""
    if "compiled" not in request.node.name:
        monkeypatch.setattr(building, "_compile", lambda *_: None)


@pytest.fixture
def environments(tmp_path: Path) -> Environments:
    return Environments(tmp_path / "environments")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def take(environments: Environments, said: list[str]) -> Take:
    def took(*lines: str, of: Environments = environments) -> Held:
        return of.take(lines, isolation_level(), said.append, threading.Event())

    return took


def run_in(held: Held, folder: Path, *argv: str, isolation: Isolation | None = None) -> list[str]:
    """What a command prints in the sandbox, with this environment."""
    for name in ("work", "home", "tmp"):
        (folder / name).mkdir(parents=True)
    place = Place(folder, isolation or isolation_level(), 1, 1 << 30, environment=held.folder)
    command = CommandProcess(argv, {}, place, timeout_s=PATIENCE_S)
    outcome = command.wait(PATIENCE_S)
    lines = command.take_lines(1 << 20)
    assert outcome is not None
    assert outcome.succeeded, lines
    return lines


def test_a_command_s_python_has_them_compiled_and_torg_s_own_packages(index: Path, take: Take, tmp_path: Path, said: list[str]) -> None:
    make_wheel(index, "alpha", needs=["beta>=2"], scripts={"say-alpha": "alpha:main"}, files={
        "alpha.py": "import beta\ndef main():\n    print('alpha with beta', beta.VERSION)\n",
    })  # fmt: skip
    make_wheel(index, "beta", "1.0")
    make_wheel(index, "beta", "2.5")
    held = take("alpha")
    assert held.seconds is not None
    assert said[0].startswith("building the environment")
    assert "2 packages" in said[-1]
    code = "import alpha, sys, numpy; alpha.main(); print(numpy.__version__, 'beta' in sys.modules)"
    assert run_in(held, tmp_path / "a", "python", "-c", code)[0] == "alpha with beta 2.5"
    assert run_in(held, tmp_path / "b", "say-alpha") == ["alpha with beta 2.5"]
    listing = run_in(held, tmp_path / "c", "sh", "-c", "touch $VIRTUAL_ENV/x 2>/dev/null || echo read-only; ls $VIRTUAL_ENV/lib/*/*")
    assert listing[0] == "read-only"
    assert "__pycache__" in listing, "compiled beforehand"
    again = take("alpha")
    assert (again.folder, again.seconds) == (held.folder, None)
    assert said[-1].endswith("is on this machine already")
    about = json.loads((held.folder / ABOUT).read_text())
    assert (about["requirements"], about["packages"]) == (["alpha"], [["alpha", "1.0"], ["beta", "2.5"]])
    assert 0 < about["bytes"] < 1 << 20


def test_without_bubblewrap_it_is_read_only_too(index: Path, take: Take, tmp_path: Path) -> None:
    make_wheel(index, "alpha", scripts={"say-alpha": "alpha:main"}, files={"alpha.py": "def main():\n    print('here')\n"})
    held = take("alpha")
    code = "say-alpha; python -c 'import alpha, numpy; alpha.main()'; touch $VIRTUAL_ENV/x 2>/dev/null || echo no"
    said = run_in(held, tmp_path / "a", "sh", "-c", code, isolation="process")
    assert said[:2] == ["here", "here"]
    if landlock.version():
        assert said[2:] == ["no"]


def test_a_long_build_says_how_far_it_is(index: Path, take: Take, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, "alpha")
    monkeypatch.setattr(building, "SAY_EVERY_S", -1.0)
    take("alpha")
    assert [line for line in said if "s so far" in line]


def test_what_torg_has_is_not_installed_again_and_another_version_of_it_goes_before(index: Path, take: Take, tmp_path: Path) -> None:
    assert json.loads((take("numpy").folder / ABOUT).read_text())["packages"] == []
    make_wheel(index, "numpy", "0.0.1")
    held = take("numpy==0.0.1")
    assert run_in(held, tmp_path / "a", "python", "-c", "import numpy; print(numpy.VERSION)") == ["0.0.1"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("nothing-of-this-name", "No matching distribution found"),
        ("alpha>=9", "from versions: 1.0"),
        ("gamma", "conflict"),
        ("only-source", "No matching distribution found"),
    ],
)
def test_what_does_not_resolve_is_the_customer_s_and_pip_says_why(
    index: Path, take: Take, environments: Environments, line: str, word: str, tmp_path: Path
) -> None:
    make_wheel(index, "alpha")
    make_wheel(index, "gamma", needs=["alpha==1.0", "delta"])
    make_wheel(index, "delta", needs=["alpha==2.0"])
    make_sdist(index, "only-source", "1.0", f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(RequirementsRefused) as refused:
        take(line)
    assert word in refused.value.tail
    assert str(index) not in refused.value.tail
    assert not (tmp_path / "ran").exists()
    assert not [path for path in environments.root.iterdir() if path.is_dir()], "nothing is left of it"


def test_a_wheel_that_asks_for_source_elsewhere_starts_nothing(index: Path, take: Take, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    source = make_sdist(elsewhere, "evil", "1.0", f"open({str(tmp_path / 'ran')!r}, 'w')")
    make_wheel(index, "alpha", needs=[f"evil @ {source.as_uri()}"])
    with pytest.raises((RequirementsRefused, BuildTrouble)):
        take("alpha")
    assert not (tmp_path / "ran").exists()
    make_wheel(elsewhere, "evil", "1.0")
    make_wheel(index, "alpha", needs=[f"evil @ {(elsewhere / 'evil-1.0-py3-none-any.whl').as_uri()}"])
    with pytest.raises(RequirementsRefused, match="address of its own"):
        take("alpha")


def test_nothing_of_a_wheel_runs_outside_the_sandbox(index: Path, take: Take, tmp_path: Path) -> None:
    ran = f"open({str(tmp_path / 'ran')!r}, 'a').write('here')"
    make_wheel(index, "alpha", files={
        "alpha.py": ran, "sitecustomize.py": ran, "usercustomize.py": ran, "zzz.pth": f"import os; {ran}\n",
        "pip.py": ran, "setuptools.py": ran, "encodings_of_mine.py": "print(", "alpha-1.0.data/scripts/python": "#!python\n",
    })  # fmt: skip
    held = take("alpha")
    assert not (tmp_path / "ran").exists()
    assert (held.folder / "bin" / "python").is_symlink(), "and no script of a wheel is python"


@pytest.mark.parametrize("path", ["../../escaped.txt", "/escaped.txt", "alpha-1.0.data/data/../../../../escaped.txt"])
def test_a_wheel_with_a_path_out_of_it_leaves_nothing_there(
    index: Path, take: Take, environments: Environments, tmp_path: Path, path: str
) -> None:
    make_wheel(index, "alpha", files={"alpha.py": "", path: "out"})
    before = {one for one in tmp_path.rglob("*") if environments.root not in one.parents}
    try:
        held = take("alpha")
    except (RequirementsRefused, BuildTrouble):
        pass
    else:
        assert check(held.folder) > 0
    after = {one for one in tmp_path.rglob("*") if environments.root not in one.parents}
    assert after - before <= {environments.root}
    assert not Path("/escaped.txt").exists()
    assert [one.name for one in environments.root.rglob("escaped.txt") if one.parent == environments.root] == []


def test_a_link_in_a_wheel_is_no_link_afterwards(index: Path, take: Take) -> None:
    make_wheel(index, "alpha", links={"alpha_data": "/etc", "alpha_more/passwd": "/etc/passwd"})
    try:
        held = take("alpha")
    except RequirementsRefused:
        return
    links = [path for path in held.folder.rglob("*") if path.is_symlink()]
    assert {path.parent for path in links} == {held.folder / "bin"}


def test_what_is_checked_afterwards(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "plain.py").write_text("x = 1\n")
    (tmp_path / "lib" / "plain.py").chmod(0o6777)
    assert check(tmp_path) > 0
    assert (tmp_path / "lib" / "plain.py").stat().st_mode & 0o7777 == 0o755
    (tmp_path / "lib" / "out").symlink_to("/etc")
    with pytest.raises(RequirementsRefused, match="lib/out"):
        check(tmp_path)
    (tmp_path / "lib" / "out").unlink()
    os.mkfifo(tmp_path / "lib" / "pipe")
    with pytest.raises(RequirementsRefused, match="lib/pipe"):
        check(tmp_path)


def test_a_package_may_not_bring_what_is_torg_s(index: Path, take: Take) -> None:
    make_wheel(index, "alpha", files={"_torg_base.pth": "/tmp\n"})
    with pytest.raises(RequirementsRefused, match=r"_torg_base\.pth"):
        take("alpha")


def test_a_limit_of_disk_is_the_customer_s_and_one_of_time_or_room_the_machine_s(
    index: Path, take: Take, environments: Environments, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, "alpha", files={"alpha.py": "x = '" + "y" * (3 << 20) + "'\n"})
    small = Environments(environments.root, limits=Limits(most_bytes=1 << 20))
    with pytest.raises(RequirementsRefused, match=r"MiB|cannot be installed"):
        take("alpha", of=small)
    with monkeypatch.context() as full:
        full.setattr(building, "LEAST_FREE_BYTES", 1 << 62)
        with pytest.raises(BuildTrouble, match="no room"):
            take("alpha")
    hasty = Environments(environments.root, limits=Limits(seconds=0.0))
    with pytest.raises(BuildTrouble, match="not built within"):
        take("alpha", of=hasty)


def test_a_machine_without_an_index_knows_it(tmp_path: Path, take: Take, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probe").mkdir()
    assert can_build(tmp_path / "probe") == ""
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert can_build(tmp_path / "probe") == "its pip has no index"
    with pytest.raises(BuildTrouble, match="no index"):
        take("alpha")


@pytest.mark.parametrize(("status", "raised"), [(404, RequirementsRefused), (403, BuildTrouble), (503, BuildTrouble)])
def test_an_index_that_has_it_not_is_another_thing_than_one_that_fails(
    take: Take, index: Path, monkeypatch: pytest.MonkeyPatch, status: int, raised: type[Exception]
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/index")
        monkeypatch.setenv("PIP_RETRIES", "0")
        with pytest.raises(raised):
            take("alpha")
        server.shutdown()


@pytest.mark.parametrize("retries", ["0", "1"])
def test_an_index_that_does_not_answer_is_the_machine_s_and_its_password_stays_there(
    take: Take, index: Path, monkeypatch: pytest.MonkeyPatch, retries: str
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://owner:pass-word@127.0.0.1:9/token-abc/index")
    monkeypatch.setenv("PIP_RETRIES", retries)
    with pytest.raises(BuildTrouble) as trouble:
        take("alpha")
    for secret in ("pass-word", "owner", "token-abc"):
        assert secret not in str(trouble.value)


def test_a_build_that_is_killed_leaves_no_half_of_it(index: Path, take: Take, environments: Environments, tmp_path: Path) -> None:
    make_wheel(index, "alpha")
    code = f"""
import sys, threading, time
from pathlib import Path
from trainers.environments import building, store
def hang(*arguments):
    print("compiling", flush=True)
    time.sleep(3600)
building._compile = hang
store.Environments(Path({str(environments.root)!r})).take(["alpha"], {isolation_level()!r}, print, threading.Event())
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        while builder.stdout.readline().strip() != "compiling":
            assert builder.poll() is None
        [half] = environments.root.glob("building-*")
        assert list(half.rglob("alpha.py"))
        builder.send_signal(signal.SIGKILL)
    assert not (environments.root / digest_of(["alpha"], own_base())).exists()
    held = take("alpha")
    assert held.seconds is not None
    assert not list(environments.root.glob("building-*")), "and what was left is gone"
    assert run_in(held, tmp_path / "a", "python", "-c", "import alpha; print(alpha.VERSION)") == ["1.0"]


def test_pip_ends_with_whoever_started_it(index: Path, tmp_path: Path) -> None:
    code = f"""
import subprocess, sys
from pathlib import Path
from trainers.environments import pip_alone
argv = pip_alone.command(Path({str(tmp_path)!r}), 1 << 30, ["--has-index"])
argv[4] = argv[4].replace("sys.exit(main", "import trainers.sandbox, time; trainers.sandbox.die_with_parent(int(sys.argv[2])); print('up', flush=True); time.sleep(3600); sys.exit(main")
child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        descriptor = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        assert wait_ready([descriptor], PATIENCE_S)[0]
        os.close(descriptor)


def fake(size: int = 100, began: threading.Event | None = None, go_on: threading.Event | None = None) -> tuple[object, list[str]]:
    """A builder that counts, and may be held up."""
    built: list[str] = []

    def build(lines: Sequence[str], base: object, scratch: Path, *_: object) -> Built:
        built.append(",".join(lines))
        if began is not None and go_on is not None:
            began.set()
            assert go_on.wait(PATIENCE_S)
        (scratch / "made").mkdir()
        return Built(scratch / "made", (), size)

    return build, built


def test_two_at_once_are_built_once(environments: Environments, said: list[str], take: Take) -> None:
    began, go_on, waiting = threading.Event(), threading.Event(), threading.Event()
    builder, built = fake(began=began, go_on=go_on)
    of = Environments(environments.root, builder=builder)  # type: ignore[arg-type]
    found: list[Held] = []
    first = threading.Thread(target=lambda: found.append(take("a", of=of)))
    first.start()
    assert began.wait(PATIENCE_S)

    def second() -> None:
        found.append(of.take(["a"], "process", lambda line: waiting.set() if "waiting" in line else None, threading.Event()))

    other = threading.Thread(target=second)
    other.start()
    assert waiting.wait(PATIENCE_S), "the second says that it waits"
    go_on.set()
    first.join(PATIENCE_S)
    other.join(PATIENCE_S)
    assert built == ["a"]
    assert len({one.folder for one in found}) == 1
    assert [one.seconds is None for one in found] == [False, True]


def test_whoever_waits_may_be_cancelled_and_a_failed_build_frees_the_next(environments: Environments, take: Take) -> None:
    began, go_on = threading.Event(), threading.Event()
    builder, _ = fake(began=began, go_on=go_on)
    of = Environments(environments.root, builder=builder)  # type: ignore[arg-type]
    first = threading.Thread(target=lambda: take("a", of=of).release())
    first.start()
    assert began.wait(PATIENCE_S)
    cancelled = threading.Event()
    with pytest.raises(BuildCancelled):
        of.take(["a"], "process", lambda line: cancelled.set() if "waiting" in line else None, cancelled)
    go_on.set()
    first.join(PATIENCE_S)

    def fails(*_: object) -> Built:
        raise BuildTrouble("no")

    with pytest.raises(BuildTrouble):
        take("b", of=Environments(environments.root, builder=fails))
    assert take("b", of=of).seconds is not None


def test_beyond_its_limit_the_least_recently_used_goes_and_none_in_use(environments: Environments, take: Take) -> None:
    builder, built = fake(size=100)
    of = Environments(environments.root, limit_bytes=250, builder=builder)  # type: ignore[arg-type]
    for number, name in enumerate(("a", "b")):
        held = take(name, of=of)
        os.utime(held.folder / ABOUT, ns=(number, number))
        held.release()
    used = take("a", of=of)  # the older one, in use and used last
    os.utime(used.folder / ABOUT, ns=(0, 0))
    third = take("c", of=of)
    assert used.folder.exists(), "in use"
    assert third.folder.exists()
    assert not (environments.root / digest_of(["b"], own_base())).exists()
    used.release()
    third.release()
    fourth = take("d", of=of)
    assert not used.folder.exists(), "used least recently, and free"
    assert fourth.folder.exists()
    assert built == ["a", "b", "c", "d"]
    assert not list(environments.root.glob("building-*"))


def test_the_digest_is_of_all_that_an_environment_depends_on() -> None:
    base = own_base()
    bases = [base, *(dataclasses.replace(base, **{name: value}) for name, value in (
        ("python", "cpython-399"), ("platform", "linux-z80"), ("packages", base.packages[1:]), ("folders", ("/elsewhere",)),
    ))]  # fmt: skip
    assert len({digest_of(lines, one) for one in bases for lines in (["a"], ["a", "b"], ["a==1"])}) == 15


@pytest.mark.parametrize(
    ("text", "status", "whose"),
    [
        ("ERROR: No matching distribution found for alpha", 1, Verdict.REQUIREMENTS),
        ("WARNING: Retrying (Retry(total=0 …\nERROR: No matching distribution found for alpha", 1, Verdict.MACHINE),
        ("ERROR: ResolutionImpossible: for help", 1, Verdict.REQUIREMENTS),
        ("    The user requested (constraint) numpy==1\nERROR: ResolutionImpossible: for help", 1, Verdict.MACHINE),
        ("OSError: [Errno 28] No space left on device", 1, Verdict.MACHINE),
        ("Something else", 2, Verdict.MACHINE),
        ("ERROR: No matching distribution found", -9, Verdict.MACHINE),
        ("ERROR: Invalid requirement: 'x=='", 1, Verdict.REQUIREMENTS),
    ],
)
def test_whose_failure_it_is(text: str, status: int, whose: Verdict) -> None:
    assert verdict(text, status) is whose


def test_last_words_have_no_addresses() -> None:
    text = (
        "Looking in indexes: https://me:secret@index.example/index\nLooking in links: /opt/wheels\n"
        "Processing /srv/alice/wheels/x-1.0-py3-none-any.whl\n"
        "WARNING: HTTPSConnectionPool(host='index.example', port=443): Max retries: /x\n"
        "ERROR: 403 Client Error for url: https://me:secret@index.example/index/x/\n"
    )
    told = last_words(text)
    for hidden in ("secret", "index.example", "alice", "/opt"):
        assert hidden not in told
    assert "x-1.0-py3-none-any.whl" in told
    assert "403 Client Error" in told


def test_a_report_of_pip_is_read_with_suspicion() -> None:
    def one(name: str, version: str, **more: object) -> dict[str, object]:
        return {"metadata": {"name": name, "version": version}, **more}

    known = one("alpha", "1.0", download_info={"url": "file:///x", "archive_info": {"hashes": {"sha256": "ab"}}})
    assert pinned_of({"install": [known, one("b", "2+cpu")]}) == [
        {"name": "alpha", "version": "1.0", "sha256": "ab"}, {"name": "b", "version": "2+cpu", "sha256": None},
    ]  # fmt: skip
    for bad in (one("alpha", "1.0", is_direct=True), one("-e .", "1"), one("a", "1 --index-url x"), one("a\nb", "1")):
        with pytest.raises(RequirementsRefused):
            pinned_of({"install": [bad]})
