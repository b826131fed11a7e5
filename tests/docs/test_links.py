"""What the Markdown pages name is there: relative links and their headings, paths in this repository, `torg` commands."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import VERBS, build

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path from the root of the repository, as it is named in code, prose or a command.
NAMED = re.compile(r"(?<![\w./-])(?:storage|trainers|market|cli|docs|tests|benchmarks|examples)/[\w./*-]*\w")
SPAN = re.compile(r"`(torg [^`]+)`")
TYPED = re.compile(r"^\s*\$? ?(torg [a-z][^#\n]*)", re.M)
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
COMING: set[str] = set()  # the pages that others name already; take a name out when the page is there
GLOBAL_OPTIONS = {"--json", "--url", "--key", "--home", "--help", "--version"}

each_page = pytest.mark.parametrize("page", PAGES, ids=[path.relative_to(ROOT).as_posix() for path in PAGES])


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@cache
def tracked() -> frozenset[str]:
    """Files of the repository and their folders; the files on disk where there is no git."""
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        files = [Path(line) for line in listed.splitlines()]
    except (OSError, subprocess.CalledProcessError):
        files = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return frozenset(one.as_posix() for file in files for one in (file, *file.parents))


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@each_page
def test_named_paths_exist(page: Path) -> None:
    for name in NAMED.findall(page.read_text(encoding="utf-8")):
        path = name.rstrip("/")
        # `git ls-files` has no file that is not added yet; on disk is as good while a page is being written.
        found = path in tracked() or path in COMING or any(ROOT.glob(path))
        assert found, name


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `torg …` in code spans and in fenced blocks."""
    typed = [line for block in FENCED.findall(text) for line in TYPED.findall(block)]
    for command in SPAN.findall(text) + typed:
        yield re.split(r"\s+", command.strip())[1:]


@cache
def root_command() -> Any:
    return typer.main.get_command(build([]))


def check(words: list[str]) -> None:
    """The verb, the verb of its group and the options exist; alternatives are written with a bar or a slash. What follows a
    bare `--` is another program's.
    """
    words = words[: words.index("--")] if "--" in words else words
    here = root_command()
    for word in words:
        if not hasattr(here, "commands") or re.fullmatch(r"[a-z][a-z|-]*,?", word) is None:
            break
        for name in word.rstrip(",").split("|"):
            assert name in here.commands, f"torg {' '.join(words)}: no {name}"
        here = here.commands[word.rstrip(",").split("|")[0]]
    known = {spelling for one in here.params for spelling in (*one.opts, *one.secondary_opts)} | GLOBAL_OPTIONS
    for option in re.findall(r"(?<!\S)\[?(--[a-z-]+)", " ".join(words)):
        assert option in known, f"torg {' '.join(words)}: no {option}"


@each_page
def test_commands_exist(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        assert words[0].startswith("-") or words[0].rstrip(",").split("|")[0] in VERBS, f"torg {' '.join(words)}"
        check(words)


def test_commands_are_found_and_wrong_ones_are_not_passed() -> None:
    text = "`torg up` and `torg books verify|rebuild`\n```console\n$ torg submit examples/01-tiny-gpt.yaml -y\n```\n"
    found = list(commands(text))
    assert [words[0] for words in found] == ["up", "books", "submit"]
    for words in found:
        check(words)
    for wrong in (["fly"], ["books", "burn"], ["up", "--wings"]):
        with pytest.raises(AssertionError):
            check(wrong)


def test_decisions_are_numbered_one_by_one() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        assert page.read_text(encoding="utf-8").startswith(f"# {int(page.name[:4])}. "), page.name
