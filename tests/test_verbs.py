"""Every verb that torg knows is there, and says what it is for."""

import pytest

from cli.main import VERBS, run


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_has_a_page_of_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"torg {verb}" in said
    assert len(said.splitlines()) > 4
