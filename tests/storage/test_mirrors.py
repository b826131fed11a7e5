"""A mirror is a prefix of the journal at every moment, gives the journal back, and is never written over by another."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.archiving import journal_bytes
from market.homes import Home
from market.mirroring import Mirroring
from storage import mirrors
from storage.canonical import canonical_bytes
from storage.disk import Disk
from storage.journal import Journal, JournalCorrupt, read_journal, segments
from storage.journal_reader import verify_journal
from storage.mirror_places import MirrorPlace, Mirrors, read_mirrors
from storage.mirrored_homes import restore_journal, seal_home, state_of_home, unseal_home
from storage.mirrors import MARK, Held, Mirror, MirrorGone, MirrorRefused, held, part_name, whole_name
from storage.object_stores import FolderStore, ObjectInfo, ObjectStore, ObjectStoreAway, open_store
from storage.sealing import seal_segment
from tests.storage.s3_server import S3Server, s3_server

MARKET = "market-1"
OPENED = {"type": "market_opened", "market_id": MARKET, "fee_ppm": 0, "version": "1"}


def payload(number: int, size: int = 0) -> bytes:
    events = [OPENED] if number == 1 else [{"type": "market_stopped", "by": "x" * size}]
    return canonical_bytes({"v": 1, "at_ms": 1000 + number, "events": events})


def grow(journal: Journal, *sizes: int) -> None:
    journal.append([payload(journal.records + 1 + place, size) for place, size in enumerate(sizes)])


class Flaky:
    """A store of which `fails` says for each operation whether it fails before or after it was done."""

    def __init__(self, store: ObjectStore, fails: Callable[[], str]) -> None:
        self._store, self._fails, self.failed = store, fails, 0

    def __getattr__(self, name: str) -> object:
        found = getattr(self._store, name)
        return found if name == "where" else lambda *given: self._do(found, *given)

    def _do(self, what: Callable[..., object], *given: object) -> object:
        drawn = self._fails()
        self.failed += bool(drawn)
        if drawn == "before":
            raise ObjectStoreAway("it did not hear")
        answer = what(*given)
        if drawn == "after":
            raise ObjectStoreAway("its answer was lost")
        return answer


class Hasty(Disk):
    """Waits for no disk: here nobody loses power."""

    def sync(self, handle: int) -> None: ...
    def sync_data(self, handle: int) -> None: ...
    def sync_folder(self, folder: Path) -> None: ...


def restored(store: ObjectStore, folder: Path) -> list[bytes]:
    folder.mkdir()
    facts = restore_journal(store, folder)
    checked = verify_journal(folder)
    assert (checked.ok, checked.records, checked.head) == (True, facts.records, facts.head)
    assert facts.last_at_ms == 1000 + facts.records
    return [record.payload for record in read_journal(folder)]


@given(
    steps=st.lists(st.sampled_from(["append", "append", "ship", "ship", "tidy", "reopen", "restart"]), min_size=3, max_size=25),
    seed=st.integers(0, 2**32), share=st.sampled_from([0.0, 0.15]),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_what_a_mirror_gives_back_is_a_prefix_that_grows(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int, share: float
) -> None:
    folder, random = tmp_path_factory.mktemp("mirror"), Random(seed)
    plain = FolderStore(folder / "objects", disk=Hasty())
    store = Flaky(plain, lambda: random.choice(["before", "after"]) if random.random() < share else "")
    journal = Journal.open(folder / "journal", segment_bytes=700, disk=Hasty())
    grow(journal, 0)
    mirror: Mirror | None = None
    known = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirrors, "JOINED_PARTS", 3)
        for step in [*steps, "append", "ship"]:
            try:
                if step == "append":
                    grow(journal, *(random.randrange(200) for _ in range(random.randint(1, 3))))
                elif step == "reopen":
                    journal.close()
                    journal = Journal.open(folder / "journal", segment_bytes=700, disk=Hasty())
                elif step == "restart":
                    mirror = None
                elif step == "ship":
                    mirror = mirror or begun(store, journal, known=known > 0)
                    mirror.ship(journal.durable)
                    known = journal.records
                elif mirror is not None:
                    mirror.tidy(journal.durable)
            except ObjectStoreAway:
                continue
        if known:
            written = [record.payload for record in read_journal(folder / "journal")]
            back = restored(plain, folder / "back")
            assert back == written[: len(back)]
            assert len(back) >= known
    journal.close()


def begun(store: Flaky, journal: Journal, *, known: bool) -> Mirror:
    mirror = Mirror(store, journal.folder, MARKET, part_bytes=150)  # type: ignore[arg-type]
    mirror.open(journal.durable, begun=known)
    return mirror


def test_whatever_fails_and_when_the_next_try_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third operation of a workload fails, before it was done, or after it and the exchange starts anew."""
    monkeypatch.setattr(mirrors, "JOINED_PARTS", 3)
    for first, how, anew in ((0, "before", False), (1, "after", True)):
        for number in itertools.count(first, 3):
            folder = tmp_path / f"{how}-{anew}-{number}"
            plain, left = FolderStore(folder / "objects", disk=Hasty()), iter([""] * number + [how])
            store = Flaky(plain, lambda left=left: next(left, ""))  # type: ignore[misc]
            mirror: Mirror | None = None
            with Journal.open(folder / "journal", segment_bytes=500, disk=Hasty()) as journal:
                for size in (0, 100, 5, 5, 5, 5):
                    grow(journal, size, size)
                    failed = True
                    while failed:
                        failed_before = store.failed
                        try:
                            mirror = mirror or begun(store, journal, known=False)
                            mirror.ship(journal.durable)
                            mirror.tidy(journal.durable)
                        except ObjectStoreAway:
                            mirror = None if anew else mirror
                        failed = store.failed > failed_before
                written = [record.payload for record in read_journal(journal.folder)]
            assert restored(plain, folder / "back") == written
            if not store.failed:
                break
        assert number > 20, "so many operations there are"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Records 1 to 6 in three segments."""
    with Journal.open(tmp_path / "journal") as first:
        grow(first, 0, 10)
    with Journal.open(tmp_path / "journal") as second:
        grow(second, 0)
        grow(second, 10, 20)
    with Journal.open(tmp_path / "journal") as third:
        grow(third, 30)
        yield third


def mirrored(tmp_path: Path, journal: Journal, place: str = "objects") -> tuple[ObjectStore, Mirror]:
    store = open_store(str(tmp_path / place))
    mirror = Mirror(store, journal.folder, MARKET)
    mirror.open(journal.durable, begun=False)
    mirror.ship(journal.durable)
    return store, mirror


def test_segments_that_are_over_go_whole_and_parts_are_joined_to_them(tmp_path: Path, journal: Journal) -> None:
    store, mirror = mirrored(tmp_path, journal)
    assert [(one.first, one.whole is not None) for one in held(store)] == [(1, True), (3, True), (6, False)]
    grow(journal, 5)
    grow(journal, 6)
    mirror.ship(journal.durable)
    assert (mirror.records, mirror.behind_bytes(journal.durable)) == (8, 0)
    journal.close()
    with Journal.open(journal.folder) as later:
        grow(later, 7)
        assert mirror.behind_bytes(later.durable) > 100
        mirror.ship(later.durable)
        assert len([part for part in held(store)[2].parts if part[1]]) == 2
        mirror.tidy(later.durable)
        third = held(store)[2]
        assert (third.whole, [size for _, size in third.parts]) == (segments(journal.folder)[2].stat().st_size, [0])
        assert store.get(whole_name(6)) == segments(journal.folder)[2].read_bytes()
    assert restored(store, tmp_path / "back") == [record.payload for record in read_journal(journal.folder)]


def test_a_mirror_of_another_market_or_of_another_history_is_left_alone(tmp_path: Path, journal: Journal) -> None:
    store, _ = mirrored(tmp_path, journal)
    before = {one.name: store.get(one.name) for one in store.list()}

    def refused(folder: Path, market: str = MARKET) -> str:
        with Journal.open(folder) as other:
            mirror = Mirror(store, folder, market)
            with pytest.raises(MirrorRefused) as wrong:
                mirror.open(other.durable, begun=True)
        return wrong.value.message.replace(str(tmp_path), "~")

    assert refused(tmp_path / "journal-2", "market-2") == "~/objects is the mirror of another market, market-1"
    with Journal.open(tmp_path / "journal-3") as short:
        grow(short, 0)
    assert refused(tmp_path / "journal-3") == "~/objects is ahead of this journal, which ends at record 1"
    with Journal.open(tmp_path / "journal-4") as other:
        grow(other, *([99] * 9))
    found = refused(tmp_path / "journal-4")
    assert found.startswith("~/objects has another history than this journal, from journal/00000000000000000006/"), found
    assert {one.name: store.get(one.name) for one in store.list()} == before


def test_of_two_markets_that_go_on_from_one_record_the_second_is_refused(tmp_path: Path, journal: Journal) -> None:
    """The old one was cut off, a new one was restored from the mirror, and the old one comes back without having ended."""
    store, old = mirrored(tmp_path, journal)
    (tmp_path / "new").mkdir()
    restore_journal(store, tmp_path / "new")
    with Journal.open(tmp_path / "new") as newer:
        mirror = Mirror(store, newer.folder, MARKET)
        mirror.open(newer.durable, begun=True)
        grow(newer, 44)
        mirror.ship(newer.durable)
        grow(journal, 45)
        with pytest.raises(MirrorRefused, match="another market writes there"):
            old.ship(journal.durable)
        grow(newer, 46)
        mirror.ship(newer.durable)
        assert restored(store, tmp_path / "back") == [record.payload for record in read_journal(newer.folder)]


def test_an_empty_place_that_was_a_mirror_is_not_begun_anew(tmp_path: Path, journal: Journal) -> None:
    store, mirror = mirrored(tmp_path, journal)
    store.delete(MARK)
    with pytest.raises(MirrorGone, match="is it mounted"):
        mirror.check_there()
    with pytest.raises(MirrorGone, match="was it emptied"):
        Mirror(open_store(str(tmp_path / "bare")), journal.folder, MARKET).open(journal.durable, begun=True)
    with pytest.raises(MirrorRefused, match="does not say whose"):
        mirror.open(journal.durable, begun=False)


def test_a_torn_tail_is_cut_and_damage_before_it_is_named(tmp_path: Path, journal: Journal) -> None:
    grow(journal, 5)
    store, _ = mirrored(tmp_path, journal)
    name = part_name(6, 0)
    whole = store.get(name)
    store.replace(name, whole[:-3])
    (tmp_path / "torn").mkdir()
    facts = restore_journal(store, tmp_path / "torn")
    assert (facts.records, facts.last_at_ms, facts.cut_bytes) == (6, 1006, 48 + len(payload(7, 5)) - 3)
    with Journal.open(tmp_path / "torn") as going_on:
        assert (going_on.records, going_on.term > 1 << 20) == (6, True)
    store.replace(name, whole)
    damaged = bytearray(store.get(whole_name(3)))
    damaged[96 + 60] ^= 1
    store.replace(whole_name(3), bytes(damaged))
    (tmp_path / "damaged").mkdir()
    with pytest.raises(JournalCorrupt, match=r"00003\.journal, record 3, offset 96"):
        restore_journal(store, tmp_path / "damaged")


def test_a_part_that_is_missing_between_others_is_named(tmp_path: Path) -> None:
    found = Held(7, parts=[(0, 100), (150, 20)])
    with pytest.raises(MirrorRefused, match="00007/000000000100 is missing"):
        found.end
    overlapping = Held(7, parts=[(0, 100), (30, 10), (90, 20), (110, 0)])
    assert (overlapping.end, list(overlapping.pieces())) == (110, [(part_name(7, 0), 0, 100), (part_name(7, 90), 10, 20)])
    with pytest.raises(MirrorRefused, match="is no mirror of a market"):
        restore_journal(open_store(str(tmp_path / "nothing")), tmp_path)


def test_keys_and_settings_come_back_and_only_with_the_passphrase(tmp_path: Path) -> None:
    home, store = tmp_path / "home", open_store(str(tmp_path / "objects"))
    for name in ("keys.json", "secrets/ab12", "uploads.log", "logs/jobs/j.log", "logs/exchange.log", "journal/1", "run/x.pid"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"content of {name}")
        (home / name).chmod(0o600)
    before = state_of_home(home)
    sealed = seal_home(home, MARKET, b"a passphrase", 1)
    assert b"content of keys" not in sealed
    assert unseal_home(store, tmp_path / "none", b"a passphrase") is None
    store.replace("home.sealed", sealed)
    assert unseal_home(store, tmp_path / "new", b"a passphrase") == MARKET
    files = {path.relative_to(tmp_path / "new").as_posix(): path.read_text() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert files == {name: f"content of {name}" for name in ("keys.json", "secrets/ab12")}
    assert (tmp_path / "new" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert state_of_home(home) == before
    (home / "keys.json").write_text("another content")
    assert state_of_home(home) != before


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as found:
        yield found


def test_a_bucket_is_a_mirror_too(server: S3Server, tmp_path: Path, journal: Journal) -> None:
    store = open_store(f"{server.make_bucket('mirror')}/of/torg", server.access)
    mirror = Mirror(store, journal.folder, MARKET)
    mirror.open(journal.durable, begun=False)
    mirror.ship(journal.durable)
    grow(journal, 5)
    again = Mirror(store, journal.folder, MARKET)
    again.open(journal.durable, begun=True)
    again.ship(journal.durable)
    mirror.ship(journal.durable)
    again.tidy(journal.durable)
    assert all(isinstance(one, ObjectInfo) for one in store.list("journal"))
    assert restored(store, tmp_path / "back") == [record.payload for record in read_journal(journal.folder)]


@pytest.mark.parametrize("place", [20, -3])  # in the head, in a block
def test_a_mirror_that_needs_a_damaged_segment_says_so_and_the_market_can_still_ask(tmp_path: Path, journal: Journal, place: int) -> None:
    damaged = segments(journal.folder)[1]
    seal_segment(journal.folder, int(damaged.stem))
    damaged = segments(journal.folder)[1]
    data = bytearray(damaged.read_bytes())
    data[place] ^= 1
    damaged.write_bytes(data)
    places = (MirrorPlace(str(tmp_path / "there"), sync=True),)
    (tmp_path / "there").mkdir()
    mirroring = Mirroring(Home(tmp_path), Mirrors(places, every_ms=60_000), lambda: MARKET, lambda: journal.durable, lambda: 0)
    mirroring.start()
    try:
        assert not mirroring.confirm(journal.records, 60)
        (standing,) = mirroring.standings()
        assert (standing.state, standing.lag_records > 0) == ("refused", True)
        assert damaged.name in mirroring.why()
    finally:
        mirroring.close()
    assert journal_bytes(Home(tmp_path)) > 0, "nor does this keep the archiver from its work"


def test_a_synchronous_bucket_confirms_what_it_has_and_nothing_while_it_is_away(
    server: S3Server, tmp_path: Path, journal: Journal
) -> None:
    home = Home(tmp_path)
    away = tmp_path / "away"
    url = f"{server.make_bucket('confirming')}/of"
    places = MirrorPlace(url, server.access, sync=True), MirrorPlace(str(away), sync=False)
    mirroring = Mirroring(home, Mirrors(places, every_ms=60_000), lambda: MARKET, lambda: journal.durable, lambda: 0)
    assert mirroring.synchronous
    assert not mirroring.confirm(journal.records, 0)
    mirroring.start()
    try:
        assert mirroring.confirm(journal.records, 60), mirroring.why()
        for _ in range(5):
            grow(journal, 3)
            assert mirroring.confirm(journal.records, 60), mirroring.why()
        store = open_store(url, server.access)
        assert held(store)[-1].end == journal.durable.bytes
        assert [(one.state, one.lag_records) for one in mirroring.standings()] == [("following", 0), ("away", journal.records)]
        assert read_mirrors(home.root).places[0].begun
        grow(journal, 3)
        store.replace(part_name(6, journal.durable.bytes - 48 - len(payload(journal.records, 3))), b"another market was here")
        assert not mirroring.confirm(journal.records, 60)
        assert "another market writes there" in mirroring.why()
    finally:
        mirroring.close()
    written = [record.payload for record in read_journal(journal.folder)]
    assert restored(store, tmp_path / "back") == written[:-1], "what was confirmed, and of the rest nothing"
