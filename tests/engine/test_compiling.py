"""The cache of compiled loops is out of date when any file of loops has changed."""

from pathlib import Path

from market.engine import compiling

FOLDER = Path(compiling.__file__).parent


def test_every_file_with_compiled_loops_is_in_the_stamp() -> None:
    with_loops = {path.name for path in FOLDER.glob("*.py") if "\n@compiled\n" in path.read_text()}
    assert with_loops <= set(compiling.LOOPS)


def test_a_change_of_any_of_them_changes_the_stamp(tmp_path: Path) -> None:
    for name in compiling.LOOPS:
        (tmp_path / name).write_text((FOLDER / name).read_text())
    before = compiling.stamp(tmp_path)
    for name in compiling.LOOPS:
        (tmp_path / name).write_text((FOLDER / name).read_text() + "\n")
        after = compiling.stamp(tmp_path)
        assert after != before, name
        before = after
