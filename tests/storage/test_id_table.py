"""The table of ids against a dict, by rows and by columns, with hashes that meet."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import large
from storage.id_table import IdTable


class Meeting(str):
    """An id whose hash is one of few."""

    __slots__ = ()

    def __hash__(self) -> int:
        return len(self) % 3 - 1


IDS = st.text("ab", min_size=1, max_size=5).map(Meeting)


@pytest.fixture(params=["rows", "columns"])
def way(request, monkeypatch) -> str:
    monkeypatch.setattr(large, "LARGE", 1 if request.param == "columns" else 1 << 30)
    return request.param


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(IDS, max_size=12), max_size=8), asked=st.lists(IDS, max_size=12))
@pytest.mark.parametrize("least", [1, 6, 1 << 30], ids=["columns", "both", "rows"])
def test_it_knows_what_a_dict_knows(least: int, batches: list[list[str]], asked: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE", least)
        table, known = IdTable(), dict[str, int]()
        for batch in batches:
            new = [id for id in dict.fromkeys(batch) if id not in known]
            assert table.has_none(batch) is (not known.keys() & set(batch))
            if len(batch) % 2:
                table.extend(new)
            else:
                assert [table.add(id) for id in batch] == [id not in known and id not in batch[:place] for place, id in enumerate(batch)]
            known.update(zip(new, range(len(known) + 1, len(known) + len(new) + 1), strict=True))
        assert table.ids == list(known)
        assert len(table) == len(known)
        assert {id: table.number(id) for id in asked} == {id: known.get(id) for id in asked}


def test_it_grows_and_forgets_nothing(way: str) -> None:
    table = IdTable()
    for first in range(0, 20_000, 1_000):
        ids = [f"t{number}" for number in range(first, first + 1_000)]
        assert table.has_none(ids)
        table.extend(ids)
        assert not table.has_none(["new", ids[500]])
    assert [table.number(f"t{number}") for number in range(-1, 20_001)] == [None, *range(1, 20_001), None]


@pytest.mark.parametrize("twice", [["a", "a"], ["b", "known"]])
def test_an_id_that_comes_twice_is_a_bug(way: str, twice: list[str]) -> None:
    table = IdTable()
    table.append("known")
    with pytest.raises(AssertionError, match="booked twice"):
        table.extend(twice)
