"""Patterns of paths: what they mean, and which are refused."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.globs import BadPattern, checked_pattern, matches


@pytest.mark.parametrize(
    ("pattern", "path", "meant"),
    [
        ("*.pt", "model.pt", True),
        ("*.pt", "out/model.pt", False),
        ("out/*.pt", "out/model.pt", True),
        ("out/*.pt", "out/deep/model.pt", False),
        ("out/**/*.pt", "out/model.pt", True),
        ("out/**/*.pt", "out/a/b/model.pt", True),
        ("**/*.log", "a.log", True),
        ("**", "any/thing", True),
        ("out", "out/deep/model.pt", True),
        ("out/", "out/model.pt", True),
        ("./out", "out/model.pt", True),
        ("out", "outer/model.pt", False),
        ("run?/x[0-9].txt", "run1/x7.txt", True),
        ("run?/x[!0-9].txt", "run1/x7.txt", False),
        ("a[/]b", "a/b", False),
        ("[", "[", True),
        ("a+b(c)", "a+b(c)", True),
    ],
)
def test_what_a_pattern_means(pattern: str, path: str, meant: bool) -> None:
    assert matches(pattern, path) is meant


@pytest.mark.parametrize(
    "pattern", ["", "/etc/passwd", "../up", "a/../../b", "~/x", "a\\b", ".", "//", "a\nb", "x" * 1001]
)
def test_a_pattern_that_could_leave_the_folder_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        checked_pattern(pattern)


NAMES = st.text(st.sampled_from("ab*?[]!-^."), min_size=1, max_size=6).filter(
    lambda name: set(name) != {"."} and "**" not in name
)


@given(NAMES, st.text(st.sampled_from("ab-^.!"), min_size=1, max_size=5))
def test_within_one_name_patterns_mean_what_the_shells_do(pattern: str, name: str) -> None:
    if "[^" in pattern or "[]" in pattern or "[!]" in pattern:
        return  # where Python's own module and shells differ
    assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)
