"""Large bytes in one pass: whole, in parts, and whatever their size."""

import numpy as np
import pytest

from trainers.filled import filled, joined, parts_of, size_of, viewed, whole

LARGE = 4 << 20  # from here on in large pages, where the kernel has them


@pytest.mark.parametrize("size", [0, 1, 4095, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE + 12_345])
def test_bytes_of_every_size_are_what_was_filled_in(size):
    expected = np.random.default_rng(size).bytes(size)

    def fill(room):
        room[:] = np.frombuffer(expected, dtype=np.uint8)

    assert filled(size, fill) == expected


@pytest.mark.parametrize("payload", [b"", b"whole", (), (b"",), (b"head", memoryview(b"body")), (memoryview(b"x"), b"")])
def test_parts_are_the_whole_one_behind_the_other(payload):
    assert whole(payload) == b"".join(parts_of(payload))
    assert size_of(payload) == len(whole(payload))


def test_an_array_is_viewed_where_it_lies_and_in_the_order_of_its_rows():
    rows = np.arange(12, dtype="<i4").reshape(3, 4)
    assert np.shares_memory(np.frombuffer(viewed(rows), dtype="<i4"), rows)
    assert bytes(viewed(rows.T)) == rows.T.tobytes()
    assert len(viewed(np.empty(0, dtype=np.float32))) == 0
    assert viewed(b"bytes") == b"bytes"
    assert joined([b"a", rows, viewed(rows)]) == b"a" + 2 * rows.tobytes()
