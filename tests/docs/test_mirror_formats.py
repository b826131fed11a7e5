"""The section «Mirror» of docs/FORMATS.md is true: a reader made from it alone puts the golden mirror together."""

import re
import shutil
from pathlib import Path

import pytest

from storage.mirrored_homes import restore_journal
from storage.object_stores import open_store
from tests.docs.specimens import GOLDEN, write_journal
from tests.docs.test_formats import Refuse, demand, journal_by_the_page

MIRROR = GOLDEN / "mirror"


def mirror_by_the_page(folder: Path, into: Path) -> None:
    """Writes the segments, by the page; refuses a gap."""
    demand((folder / "torg-mirror").read_bytes() == b'{"format":"torg-mirror-1","market":"market-1"}', "whose it is")
    for one in sorted((folder / "journal").iterdir()):
        if one.is_file():
            demand(re.fullmatch(r"[0-9]{20}\.journal", one.name) is not None, "the name of a segment")
            (into / one.name).write_bytes(one.read_bytes())
        elif not (folder / "journal" / f"{one.name}.journal").exists():
            data = b""
            for part in sorted(one.iterdir()):
                demand(int(part.name) <= len(data), "a part that is missing")
                data += part.read_bytes()[len(data) - int(part.name) :]
            (into / f"{one.name}.journal").write_bytes(data)


def test_both_readers_put_the_golden_mirror_together(tmp_path: Path) -> None:
    assert sorted(path.name for path in (MIRROR / "journal").iterdir()) == [
        "00000000000000000001", "00000000000000000001.journal", "00000000000000000004",
    ]  # fmt: skip
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    shutil.copytree(MIRROR, tmp_path / "copy")
    mirror_by_the_page(MIRROR, theirs)
    facts = restore_journal(open_store(str(tmp_path / "copy")), ours)
    found = journal_by_the_page(theirs)
    assert (facts.market, facts.records, facts.head) == ("market-1", 5, found[-1][2])
    assert journal_by_the_page(ours) == found
    write_journal(tmp_path / "first")
    assert found[:4] == journal_by_the_page(tmp_path / "first")


def test_both_readers_refuse_a_gap(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "objects"))
    for path in MIRROR.rglob("*"):
        if path.is_file() and not path.is_relative_to(MIRROR / "journal" / "00000000000000000004"):
            store.put_new(path.relative_to(MIRROR).as_posix(), path.read_bytes())
    last = max((MIRROR / "journal" / "00000000000000000004").iterdir())
    store.put_new(last.relative_to(MIRROR).as_posix(), last.read_bytes())
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    with pytest.raises(Refuse, match="a part that is missing"):
        mirror_by_the_page(tmp_path / "objects", tmp_path / "one")
    with pytest.raises(Exception, match="is missing, although"):
        restore_journal(store, tmp_path / "two")
