"""How an exchange starts: the journal, the state from it, the first members, the keys.

1. Open the journal (lock, new term) and replay it.
2. Say the journal's format where it does not yet (storage/formats.py).
3. First start: open the market; make the local accounts, their keys in keys.json (0600) before the journal has the hashes.
"""

import logging
import time
from importlib.metadata import PackageNotFoundError, version
from secrets import token_hex

from market.api.books_link import BooksLink
from market.api.cosigned import CosignedHeads
from market.api.desk import Desk
from market.api.job_logs import JobLogs
from market.api.routes.members import hash_of, new_key
from market.api.services import Services
from market.api.shelf import Shelf
from market.api.vault import Vault, VaultDamaged
from market.clocks import SteadyClock
from market.commands import SYSTEM, AddMember, NoteFormat, OpenMarket
from market.homes import LOCAL_MEMBERS, Home, kept_key, read_json, write_json
from market.outcomes import Refusal
from storage.formats import JOURNAL_FORMAT
from storage.signing import public_key_of

log = logging.getLogger("torg.opening")


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def steady_ms() -> int:
    """Milliseconds of a clock that nobody sets, and that runs while the machine sleeps where there is one."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


def torg_version() -> str:
    """The installed version of torg."""
    try:
        return version("torg")
    except PackageNotFoundError:
        return "0.1.0"  # a checkout that was not installed


def open_services(home: Home, url: str, desk: Desk, shelf: Shelf, clock: SteadyClock) -> Services:
    """Everything that the routes need, over a desk that has replayed its journal. Raises OSError, ValueError."""
    open_market(home, desk)
    shelf.recall_manifests()
    signing_key = kept_key(home.signing_key_file)
    vault = Vault(home.secrets, home.secrets_key_file)
    named = desk.exchange.named_secrets()
    vault.keep_only({token for _, _, token in named})
    try:
        vault.finish_rekey(named)
    except VaultDamaged as damaged:  # whoever needs a secret is told; the market opens
        log.error("%s", damaged)
    return Services(
        home=home,
        url=url,
        version=torg_version(),
        desk=desk,
        feed=desk.feed,
        shelf=shelf,
        job_logs=JobLogs(home.job_logs),
        vault=vault,
        books=BooksLink(home),
        cosigned=CosignedHeads(home.cosigned_file),
        signing_key=signing_key,
        public_key=public_key_of(signing_key),
        started_ms=desk.now_ms(),
        clock=clock,
        ray=read_json(home.ray_file),
    )


def open_market(home: Home, desk: Desk) -> None:
    """The market and its local members, made if they are missing; keys before their hashes."""
    if desk.records == 0:
        opened = desk.decide_now(OpenMarket(market_id=f"market-{token_hex(8)}", version=torg_version()))
        assert not isinstance(opened.answer, Refusal), opened.answer
    if desk.exchange.journal_format < JOURNAL_FORMAT:
        desk.decide_now(NoteFormat(JOURNAL_FORMAT, torg_version(), SYSTEM))
    keys = home.read_keys()
    missing = [name for name in LOCAL_MEMBERS if name not in keys]
    if missing:
        keys |= {name: new_key() for name in missing}
        write_json(home.keys_file, keys, mode=0o600)
    known = {member["member"]: member for member in desk.exchange.members()}
    for name in LOCAL_MEMBERS:
        if name not in known:
            added = desk.decide_now(AddMember(member=name, role=name, key_sha256=hash_of(keys[name]), by=SYSTEM))
            assert not isinstance(added.answer, Refusal), added.answer
