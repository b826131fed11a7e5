"""What an append acknowledged survives anything; what did not happen is cut; what was changed is found."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.disk import Disk
from storage.journal import (
    Journal,
    JournalBroken,
    JournalCorrupt,
    JournalFull,
    JournalLocked,
    JournalRewound,
    Walk,
    read_journal,
    segments,
    verify_journal,
)

PAYLOADS = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=3), min_size=1, max_size=5)


class SyncingBy(Disk):
    """The real disk, but the journal's data are made durable by `sync`."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self.sync_data = sync  # type: ignore[method-assign]


def fill(folder: Path, appends: Sequence[Sequence[bytes]], segment_bytes: int = 1 << 26) -> list[bytes]:
    with Journal.open(folder, segment_bytes=segment_bytes) as journal:
        for payloads in appends:
            journal.append(payloads)
    return [payload for payloads in appends for payload in payloads]


def payloads_of(folder: Path, after: int = 0) -> list[bytes]:
    return [record.payload for record in read_journal(folder, after)]


@given(appends=PAYLOADS, segment_bytes=st.sampled_from([150, 400, 1 << 26]), after=st.integers(0, 15))
@settings(deadline=None)
def test_what_was_appended_is_read(appends, segment_bytes, after) -> None:
    with tempfile.TemporaryDirectory() as name:
        written = fill(Path(name), appends, segment_bytes)
        with Journal.open(Path(name)) as journal:
            found = list(read_journal(Path(name)))
            assert [record.payload for record in found] == written
            assert [record.number for record in found] == list(range(1, len(written) + 1))
            assert (journal.records, journal.head) == (len(written), found[-1].hash)
            verified = verify_journal(Path(name))
            assert (verified.ok, verified.records, verified.head) == (True, journal.records, journal.head)
            if after <= len(written):
                assert payloads_of(Path(name), after) == written[after:]
            else:
                with pytest.raises(JournalRewound):
                    payloads_of(Path(name), after)


@given(appends=PAYLOADS, data=st.data())
@settings(deadline=None)
def test_wherever_the_last_segment_ends_the_whole_records_before_survive(appends, data) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = fill(folder, appends)
        path = segments(folder)[-1]
        ends = _ends(written)
        size = data.draw(st.integers(96, path.stat().st_size))
        os.truncate(path, size)
        whole = sum(end <= size for end in ends)
        torn = size != ([96, *ends][whole])
        assert payloads_of(folder) == written[:whole]
        assert verify_journal(folder).ok is not torn
        with Journal.open(folder) as journal:
            assert journal.records == whole
            assert journal.cut_bytes == size - [96, *ends][whole]
            journal.append([b"after the cut"])
        assert payloads_of(folder) == [*written[:whole], b"after the cut"]
        assert verify_journal(folder).ok


def _ends(written: Sequence[bytes]) -> list[int]:
    ends, size = [], 96
    for payload in written:
        size += 48 + len(payload)
        ends.append(size)
    return ends


@given(appends=PAYLOADS, segment_bytes=st.sampled_from([200, 1 << 26]), data=st.data())
@settings(deadline=None, max_examples=200)
def test_a_changed_byte_is_found_and_no_record_after_it_is_lost_silently(appends, segment_bytes, data) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = fill(folder, appends, segment_bytes)
        path = data.draw(st.sampled_from(segments(folder)))
        offset = data.draw(st.integers(0, path.stat().st_size - 1))
        flipped = data.draw(st.integers(1, 255))
        content = bytearray(path.read_bytes())
        content[offset] ^= flipped
        path.write_bytes(content)
        found = verify_journal(folder)
        assert not found.ok
        assert found.first_bad is not None
        assert path.name in found.first_bad
        last_append = len(written) - len(appends[-1])
        try:
            journal = Journal.open(folder)
        except JournalCorrupt:
            return
        with journal:
            # only the last append may be taken for one that never returned, and its bytes are kept aside
            assert last_append <= journal.records < len(written)
            assert list(folder.glob("cut-*.bin"))
            assert payloads_of(folder) == written[: journal.records]


def test_the_first_bad_byte_is_named(tmp_path: Path) -> None:
    fill(tmp_path, [[b"one"], [b"two"], [b"three"]])
    path = segments(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[96 + 48 + 3 + 48] ^= 1  # the payload of record 2
    path.write_bytes(content)
    found = verify_journal(tmp_path)
    assert (found.ok, found.records) == (False, 1)
    assert found.first_bad == (
        "segment 00000000000000000001.journal, record 2, offset 147: a byte of this record was changed (CRC)"
    )
    with pytest.raises(JournalCorrupt, match="record 2"):
        Journal.open(tmp_path)
    with pytest.raises(JournalCorrupt, match="record 2"):
        payloads_of(tmp_path)


def test_a_segment_that_is_missing_is_found(tmp_path: Path) -> None:
    fill(tmp_path, [[b"x" * 60]] * 6, segment_bytes=200)
    assert len(segments(tmp_path)) > 2
    segments(tmp_path)[1].unlink()
    assert "it starts at record" in (verify_journal(tmp_path).first_bad or "")
    with pytest.raises(JournalCorrupt):
        Journal.open(tmp_path)


def test_records_swapped_between_two_journals_are_found(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[b"pay ann 1"], [b"pay bob 2"]])
    fill(tmp_path / "b", [[b"pay ann 9"], [b"pay bob 2"]])
    ours, theirs = segments(tmp_path / "a")[0], segments(tmp_path / "b")[0]
    end_of_first = 96 + 48 + 9
    ours.write_bytes(theirs.read_bytes()[:end_of_first] + ours.read_bytes()[end_of_first:])
    assert "record 2" in (verify_journal(tmp_path / "a").first_bad or "")


def test_every_open_is_a_new_term(tmp_path: Path) -> None:
    terms = []
    for _ in range(3):
        with Journal.open(tmp_path) as journal:
            terms.append(journal.term)
    assert terms == [1, 2, 3]
    assert verify_journal(tmp_path).ok


def test_a_second_writer_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    with Journal.open(tmp_path), pytest.raises(JournalLocked, match=str(os.getpid())):
        Journal.open(tmp_path)
    Journal.open(tmp_path).close()


def test_a_failed_sync_breaks_the_journal_for_good(tmp_path: Path) -> None:
    fails = False

    def sync(handle: int) -> None:
        if fails:
            raise OSError(5, "Input/output error")
        os.fsync(handle)

    journal = Journal.open(tmp_path, disk=SyncingBy(sync))
    journal.append([b"good"])
    fails = True
    with pytest.raises(JournalBroken):
        journal.append([b"unknown"])
    fails = False
    with pytest.raises(JournalBroken):
        journal.append([b"never"])
    assert journal.records == 1
    journal.close()


def test_one_append_is_one_sync(tmp_path: Path) -> None:
    synced: list[int] = []
    with Journal.open(tmp_path, disk=SyncingBy(synced.append)) as journal:
        before = len(synced)
        journal.append([b"a", b"b", b"c"])
        assert len(synced) == before + 1
        journal.append([])
        assert len(synced) == before + 1


def test_a_full_disk_keeps_everything_before_and_goes_on_after(tmp_path: Path) -> None:
    """The file size limit of the process stands for the disk: a write above it fails half way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(tmp_path) as journal:
        journal.append([b"safe"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
        try:
            with pytest.raises(JournalFull):
                journal.append([b"x" * 100, b"y" * 300])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert journal.records == 1
        assert payloads_of(tmp_path) == [b"safe"]
        assert verify_journal(tmp_path).ok
        journal.append([b"later"])
    assert payloads_of(tmp_path) == [b"safe", b"later"]


def test_no_room_for_a_new_segment_refuses_the_append_only(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(tmp_path, segment_bytes=200) as journal:
        journal.append([b"x" * 100])
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
        try:
            with pytest.raises(JournalFull):
                journal.append([b"y" * 100])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        journal.append([b"z" * 100])
    assert payloads_of(tmp_path) == [b"x" * 100, b"z" * 100]


def test_a_reader_follows_the_writer_over_segments_and_reopenings(tmp_path: Path) -> None:
    walk = Walk(tmp_path)
    assert list(walk) == []
    seen: list[bytes] = []
    for term in range(4):
        with Journal.open(tmp_path, segment_bytes=300) as journal:
            seen += [record.payload for record in walk]
            for number in range(5):
                journal.append([f"{term}.{number}".encode() * 10])
                if number % 2:
                    seen += [record.payload for record in walk]
    seen += [record.payload for record in walk]
    assert seen == payloads_of(tmp_path)
    assert len(seen) == 20


def test_a_reader_that_was_ahead_of_what_became_durable_is_told(tmp_path: Path) -> None:
    fill(tmp_path, [[b"kept"], [b"never acknowledged"]])
    first, second = list(Walk(tmp_path))
    os.truncate(segments(tmp_path)[0], 96 + 48 + 4)
    with pytest.raises(JournalRewound):
        list(Walk(tmp_path, after=2, expect=second.hash))
    fill(tmp_path, [[b"another"]])
    with pytest.raises(JournalRewound):
        list(Walk(tmp_path, after=2, expect=second.hash))
    assert [record.payload for record in Walk(tmp_path, after=1, expect=first.hash)] == [b"another"]


WRITER = """
import sys
from pathlib import Path
from storage.journal import Journal
journal = Journal.open(Path(sys.argv[1]), segment_bytes=20_000)
number = journal.records
while True:
    batch = [f"record {number + i + 1} " .encode() + b"." * 300 for i in range(3)]
    journal.append(batch)
    number += 3
    print(number, flush=True)
"""


def test_a_killed_writer_loses_no_acknowledged_record(tmp_path: Path) -> None:
    acknowledged = 0
    for wanted in (7, 40, 90):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        assert writer.stdout is not None
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged >= wanted:
                break
        os.kill(writer.pid, signal.SIGKILL)
        for line in writer.stdout:  # what it said before it died
            if line.endswith("\n"):
                acknowledged = int(line)
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        found = payloads_of(tmp_path)
        assert len(found) >= acknowledged
        assert [payload.split(b".")[0] for payload in found] == [
            f"record {number} ".encode() for number in range(1, len(found) + 1)
        ]
    with Journal.open(tmp_path) as journal:
        assert journal.term == 4
        assert journal.records >= acknowledged
    assert verify_journal(tmp_path).ok


def test_small_appends_find_room_in_the_file_that_is_given_back_at_the_end(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        path = segments(tmp_path)[0]
        journal.append([b"the first takes room"])
        taken = path.stat().st_size
        for number in range(50):
            journal.append([b"%d" % number])
        assert path.stat().st_size == taken > journal.durable.bytes
        assert len(payloads_of(tmp_path)) == 51
        assert verify_journal(tmp_path).ok
        durable = journal.durable.bytes
    assert path.stat().st_size == durable


@pytest.mark.parametrize("room", [1, 47, 48, 100_000])
def test_room_that_a_killed_writer_had_taken_is_no_torn_tail(tmp_path: Path, room: int) -> None:
    fill(tmp_path, [[b"kept"]])
    path = segments(tmp_path)[0]
    whole = path.stat().st_size
    os.truncate(path, whole + room)
    assert verify_journal(tmp_path).ok
    with Journal.open(tmp_path) as journal:
        assert (journal.records, journal.cut_bytes) == (1, 0)
    assert path.stat().st_size == whole


def test_an_append_that_lost_its_beginning_is_no_room(tmp_path: Path) -> None:
    fill(tmp_path, [[b"kept"]])
    path = segments(tmp_path)[0]
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(48) + b"its end" + bytes(100))
    assert payloads_of(tmp_path) == [b"kept"]
    assert not verify_journal(tmp_path).ok
    with Journal.open(tmp_path) as journal:
        assert (journal.records, journal.cut_bytes) == (1, 155)
    assert path.stat().st_size == whole


def test_zeros_at_the_end_of_a_segment_that_is_over_are_damage(tmp_path: Path) -> None:
    fill(tmp_path, [[b"x" * 300], [b"y" * 300]], 400)
    first = segments(tmp_path)[0]
    os.truncate(first, first.stat().st_size + 100)
    told = verify_journal(tmp_path)
    assert not told.ok
    assert "zeros" in str(told.first_bad)
    with pytest.raises(JournalCorrupt):
        Journal.open(tmp_path)


def test_a_reader_that_stood_in_the_room_goes_on_in_the_next_segment(tmp_path: Path) -> None:
    with Journal.open(tmp_path, segment_bytes=400) as journal:
        journal.append([b"a" * 50])
        assert segments(tmp_path)[0].stat().st_size > journal.durable.bytes
        walk = Walk(tmp_path)
        assert [one.payload for one in walk] == [b"a" * 50]
        journal.append([b"b" * 50])
        journal.append([b"c" * 300])
        assert [one.payload for one in walk] == [b"b" * 50, b"c" * 300]
        walk.check()


def test_a_disk_that_reserves_nothing_takes_appends_all_the_same(tmp_path: Path) -> None:
    class Refusing(Disk):
        def reserve(self, handle: int, begin: int, end: int) -> None:
            raise OSError(95, "Operation not supported")

    with Journal.open(tmp_path, disk=Refusing()) as journal:
        journal.append([b"one"])
        journal.append([b"two"])
        assert segments(tmp_path)[0].stat().st_size == journal.durable.bytes
    assert payloads_of(tmp_path) == [b"one", b"two"]
