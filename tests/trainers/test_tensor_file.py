"""Files written head first are the library's to the byte, and a head that a stranger wrote is sound or refused."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.filled import joined
from trainers.inner_state import DTYPES
from trainers.tensor_file import BadHead, Entry, check_head, head_of

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(lambda name: name[0] != "_")
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tensors = st.dictionaries(names, st.tuples(st.sampled_from(list(DTYPES)), shapes), max_size=6)


@settings(deadline=None)
@given(described=tensors, metadata=st.fixed_dictionaries({"torg": st.text(st.characters(exclude_categories=["Cs"]))}))
def test_a_file_is_what_the_safetensors_library_writes(described, metadata):
    made = {}
    for name, (dtype, shape) in described.items():
        made[name] = torch.arange(int(np.prod(shape))).to(torch.float32).to(dtype).reshape(shape)
    entries = [Entry(name, DTYPES[dtype], shape) for name, (dtype, shape) in described.items()]
    head, places = head_of(entries, metadata)
    raw = {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in made.items()}
    file = joined([head, *(raw[name] for name in places)])
    assert file == safetensors.torch.save(made, metadata)
    assert all(file[place : place + len(raw[name])] == raw[name] for name, place in places.items())
    check_head(head, len(file) - len(head))


def entry(begin, end, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


BAD = {
    "no object": [],
    "an entry that is none": {"a": 5},
    "too few fields": {"a": {"dtype": "F32", "shape": []}},
    "more fields": {"a": {**entry(0, 8), "more": 1}},
    "overlapping": {"a": entry(0, 8), "b": entry(4, 8)},
    "a gap": {"a": entry(0, 4), "b": entry(8, 8)},
    "beyond the end": {"a": entry(0, 12)},
    "not to the end": {"a": entry(0, 4)},
    "backwards": {"a": entry(0, 8), "b": entry(8, 4, shape=[-1])},
    "another length than its shape": {"a": entry(0, 8, shape=[3])},
    "a shape of many": {"a": entry(0, 8, shape=[1 << 40, 1 << 40])},
    "numbers that are none": {"a": entry(0, 8, shape=[2.0])},
    "truths for numbers": {"a": entry(0, 8, shape=[True, 2])},
    "many dimensions": {"a": entry(0, 8, shape=[1] * 16 + [2])},
    "another kind": {"a": entry(0, 8, dtype="F31")},
    "a kind that is no text": {"a": entry(0, 8, dtype=["F32"])},
    "one place": {"a": {**entry(0, 8), "data_offsets": [8]}},
    "metadata that are no texts": {"__metadata__": {"torg": 1}, "a": entry(0, 8)},
    "no metadata": {"__metadata__": [], "a": entry(0, 8)},
}


@pytest.mark.parametrize("bad", BAD)
def test_heads_that_describe_other_bytes(bad):
    check_head(bytes(8) + json.dumps({"a": entry(0, 8)}).encode(), 8)
    with pytest.raises(BadHead):
        check_head(bytes(8) + json.dumps(BAD[bad]).encode(), 8)


@pytest.mark.parametrize("text", [b"", b"\xff", b"[" * 100_000, b"9" * 5000, b'{"a":NaN}', b"null"])
def test_heads_that_are_no_json_objects_of_entries(text):
    with pytest.raises(BadHead):
        check_head(bytes(8) + text, 0)


@settings(deadline=None)
@given(data=st.data())
def test_a_changed_head_is_refused_or_the_library_reads_the_file(data):
    entries = [Entry("0.a", "F32", (2, 3)), Entry("0.b", "BF16", ()), Entry("1.c", "I64", (2,))]
    head, _ = head_of(entries, {"torg": "{}"})
    changed, body = bytearray(head), bytes(sum(one.size_bytes for one in entries))
    for at in data.draw(st.lists(st.integers(8, len(head) - 1), max_size=3)):
        changed[at] = data.draw(st.integers(0, 255))
    try:
        check_head(bytes(changed), len(body))
    except BadHead:
        return
    reason = ""
    try:
        safetensors.torch.load(bytes(changed) + body)
    except (safetensors.SafetensorError, KeyError) as error:
        reason = str(error)
    assert "offset" not in reason.lower(), "the library has rules of its own for names and texts; places were sound"


def test_joined_is_what_join_makes():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert joined([b"ab", rows[:, ::2], b"", rows[1]]) == b"ab" + rows[:, ::2].tobytes() + rows[1].tobytes()
    assert joined([]) == b""
