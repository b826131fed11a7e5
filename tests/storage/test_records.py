"""The bytes of a record are the canonical JSON of what it says, whichever way they are made."""

from hypothesis import given
from hypothesis import strategies as st

from storage.canonical import canonical_bytes
from storage.records import decode_record, encode_record
from storage.transfers import KINDS, Transfer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TRANSFERS = st.builds(
    Transfer, id=TEXT, kind=st.sampled_from([*KINDS]), debit=TEXT, credit=TEXT, amount_nanos=st.integers(-(2**63), 2**63),
    job=st.none() | TEXT, lease=st.none() | TEXT,
)  # fmt: skip


@given(at_ms=st.integers(0, 2**63), transfers=st.lists(TRANSFERS, min_size=1, max_size=2))
def test_a_record_of_transfers_is_canonical_json(at_ms: int, transfers: list[Transfer]) -> None:
    events = [one.event() for one in transfers]
    payload = encode_record(at_ms, events)
    assert payload == canonical_bytes({"v": 1, "at_ms": at_ms, "events": events})
    assert decode_record(payload) == {"v": 1, "at_ms": at_ms, "events": events}
