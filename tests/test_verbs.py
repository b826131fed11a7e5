"""Every verb that torg knows is there, and says what it is for."""

import pytest

from cli.main import PANELS, VERBS, run


def test_the_first_page_has_every_verb_once_under_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    said = capsys.readouterr().out
    assert sorted(" ".join(PANELS.values()).split()) == sorted(VERBS)
    assert [panel for panel in PANELS if panel not in said] == []


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_has_a_page_of_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"torg {verb}" in said
    assert len(said.splitlines()) > 4
