"""`.gitignore` as git reads it: compared with git itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market.gitignore import is_ignored, parse, rules_above


@pytest.mark.parametrize(
    ("text", "path", "ignored"),
    [
        ("*.pyc\n", "a/b.pyc", True),
        ("build/\n", "src/build", True),
        ("/build\n", "src/build", False),
        ("# comment\n\n\\#kept\n", "#kept", True),
        ("*.log\n!keep.log\n", "keep.log", False),
        ("doc/*.txt\n", "doc/a/b.txt", False),
        ("doc/**/*.txt\n", "doc/a/b.txt", True),
        ("data \n", "data", True),
        ("data\\ \n", "data ", True),
        ("\\!odd\n", "!odd", True),
    ],
)
def test_rules(text: str, path: str, ignored: bool) -> None:
    assert is_ignored(parse(text), path, folder=path.endswith("build")) is ignored


def test_a_deeper_file_has_the_last_word() -> None:
    rules = (*parse("*.bin\n"), *parse("!model.bin\n", "keep/"))
    assert not is_ignored(rules, "keep/model.bin", folder=False)
    assert is_ignored(rules, "model.bin", folder=False)


PARTS = st.text(st.sampled_from("ab*?."), min_size=1, max_size=4).filter(
    lambda part: set(part) - {"."} and "**" not in part
)
LINES = st.builds(
    lambda negated, lead, parts, tail: ("!" if negated else "") + lead + "/".join(parts) + tail,
    st.booleans(), st.sampled_from(["", "/", "**/"]), st.lists(PARTS, min_size=1, max_size=2), st.sampled_from(["", "/", "/**"]),
)  # fmt: skip
NAMES = st.text(st.sampled_from("ab."), min_size=1, max_size=3).filter(lambda name: set(name) != {"."})


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, min_size=1, max_size=4), path=st.lists(NAMES, min_size=1, max_size=3).map("/".join))
def test_it_agrees_with_git(lines: list[str], path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    repository = tmp_path_factory.getbasetemp() / "repository"
    if not repository.exists():
        subprocess.run(["git", "init", "-q", str(repository)], check=True)
    text = "\n".join(lines) + "\n"
    (repository / ".gitignore").write_text(text)
    asked = subprocess.run(
        ["git", "-C", str(repository), "check-ignore", "-q", "--no-index", path], check=False, stdin=subprocess.DEVNULL
    )
    rules, parts = parse(text), path.split("/")
    above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
    ours = any(is_ignored(rules, one, folder=True) for one in above) or is_ignored(rules, path, folder=False)
    assert ours == (asked.returncode == 0), (text, path)


def test_the_files_around_a_folder_count_up_to_the_top_of_its_repository(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("beyond\n")
    top = tmp_path / "top"
    (top / ".git").mkdir(parents=True)
    (top / "src" / "job").mkdir(parents=True)
    (top / ".gitignore").write_text("*.bin\n")
    (top / "src" / ".gitignore").write_text("/job/out\n")
    begins, rules = rules_above(top / "src" / "job")
    assert begins == "src/job/"
    ignored = [
        name for name in ("a.bin", "out", "beyond", "train.py") if is_ignored(rules, begins + name, folder=False)
    ]
    assert ignored == ["a.bin", "out"]
