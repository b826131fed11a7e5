"""The cache of compiled loops is out of date when any file of loops has changed, and leaves nothing of older ones behind."""

from pathlib import Path

from market.engine import compiling

FOLDER = Path(compiling.__file__).parent


def test_every_file_with_compiled_loops_is_in_the_stamp() -> None:
    with_loops = {
        path.name
        for path in FOLDER.glob("*.py")
        if any(f"\n@{name}\n" in path.read_text() for name in ("compiled", "inner"))
    }
    assert with_loops <= set(compiling.LOOPS)


def test_a_change_of_any_of_them_changes_the_stamp(tmp_path: Path) -> None:
    for name in compiling.LOOPS:
        (tmp_path / name).write_text((FOLDER / name).read_text())
    before = compiling.stamp(tmp_path)
    assert before == compiling.stamp()
    for name in compiling.LOOPS:
        (tmp_path / name).write_text((FOLDER / name).read_text() + "\n")
        after = compiling.stamp(tmp_path)
        assert after != before, name
        before = after


def test_the_cache_goes_where_it_can_be_written_and_older_ones_go(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    first = compiling.cache_folder((tmp_path / "a file", tmp_path / "cache"), "one")
    assert first == tmp_path / "cache" / "torg-loops-one"
    second = compiling.cache_folder((tmp_path / "cache",), "two")
    assert [second] == list((tmp_path / "cache").iterdir())
    assert compiling.cache_folder((tmp_path / "a file",), "one") is None
