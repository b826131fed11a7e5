"""Requirements as a job may have them: one normal form for all ways of writing a line, and nothing that pip takes for more."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement, Requirement

from trainers.requirement_lines import (
    MAX_LINES,
    BadRequirement,
    is_normal,
    requirements_of_lines,
    requirements_of_pyproject,
    requirements_of_text,
)

FILE = """\ufeff# what the script imports
Einops >= 0.8   # rearrange

transformers[Torch, sentencepiece] (==4.57.*, !=4.57.1)
typing_extensions;python_version < "3.13"   and sys_platform == 'linux'
einops>=0.8
"""


def test_a_file_is_its_lines_in_one_form() -> None:
    assert requirements_of_text(FILE) == (
        "einops>=0.8",
        "transformers[sentencepiece,torch]!=4.57.1,==4.57.*",
        "typing-extensions; python_version < \"3.13\" and sys_platform == 'linux'",
    )


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("--index-url https://example.org/index", "option"), ("-e .", "option"), ("-r other.txt", "option"),
        ("einops --hash=sha256:00", "option"), ("einops==0.8 --global-option=x", "option"), ("--find-links /tmp", "option"),
        ("git+https://example.org/x.git", "address"), ("einops @ https://example.org/einops.whl", "address"),
        ("einops@file:///etc/passwd", "address"), ("file:///etc/passwd", "address"), ("https://example.org/x.whl", "address"),
        ("./einops", "path"), ("/etc/passwd", "path"), ("..", "path"), ("wheels/einops.whl", "path"), ("~/einops", "path"),
        ("${NAME}", "variable"), ("einops==${VERSION}", "variable"), ("einops \\", "next line"), ("einops==", "no requirement"),
        ("einops; import os", "no requirement"), ("einops (>=1", "no requirement"), ("=1", "no requirement"),
        ("einops>=1 numpy", "no requirement"), ("x" * 401, "longer"),
    ],
)  # fmt: skip
def test_what_is_more_than_a_name_with_versions_is_refused_with_its_line(line: str, word: str) -> None:
    with pytest.raises(BadRequirement) as refused:
        requirements_of_lines(["numpy", "", line])
    assert refused.value.number == 3
    assert word in refused.value.message
    assert str(refused.value).startswith("line 3: ")
    assert refused.value.remedy


def test_there_are_not_too_many() -> None:
    with pytest.raises(BadRequirement, match="more than 200"):
        requirements_of_lines(f"package{number}" for number in range(MAX_LINES + 1))


def test_a_project_s_dependencies_count() -> None:
    assert requirements_of_pyproject({"project": {"dependencies": ["B>1", "a"]}}) == ("a", "b>1")
    for project in ({}, {"project": {}}, {"project": {"dependencies": "a"}}, {"project": {"dependencies": [1]}}, {"project": []}):
        with pytest.raises(BadRequirement, match="dependencies"):
            requirements_of_pyproject(project)


@given(st.text(max_size=60) | st.from_regex(r"[a-z.\[\]=<>~!;@/$ -]{0,40}", fullmatch=True))
def test_what_is_let_through_is_a_plain_requirement_and_its_own_normal_form(text: str) -> None:
    try:
        found = requirements_of_text(text)
    except BadRequirement:
        return
    for line in found:
        assert not re.search(r"^-|\s-|[@$/\\\n]", line.partition(";")[0])
        with contextlib.suppress(InvalidRequirement):  # such as a version that is none, which pip tells of
            assert Requirement(line).url is None
    if found:
        assert is_normal(list(found))


@pytest.mark.parametrize("lines", [None, [], "einops", ["Einops"], ["b", "a"], ["a", "a"], ["a", 1], ["-e ."], ["a "], ["a"] * 300])
def test_what_is_not_in_normal_form_is_none(lines: object) -> None:
    assert not is_normal(lines)
