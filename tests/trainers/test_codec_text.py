"""What names a codec and what does not, with the words of the refusal."""

import pytest

from trainers.codec_text import CodecTextError, parse_codec


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("int8", "int8"),
        (" fp4 ", "fp4"),
        ("dct+identity", "dct:64+identity"),
        ("dct:64+top_k:8/4096+fp16", "dct:64+top_k:8/4096+fp16"),
        ("top_k:64/4096+int2", "top_k:64/4096+int2"),
        ("prune:.90+bf16", "prune:0.9+bf16"),
        ("prune:0+bf16", "prune:0+bf16"),
        ("prune:0.000000001+sign1", "prune:0.000000001+sign1"),
    ],
)
def test_every_spelling_has_one_canonical_text(text, canonical):
    assert parse_codec(text).text == canonical
    assert parse_codec(canonical).text == canonical
    assert parse_codec(text).dense == ("+" not in canonical)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int-8", "did you mean int8?"),
        ("", "known are identity"),
        ("topk:64/4096+int2", "did you mean top_k?"),
        ("top_k:64/4096", "add [+]fp16"),
        ("int8+fp16", "the order is"),
        ("top_k:64/4096+dct:64+fp16", "the order is"),
        ("dct+dct+fp16", "the order is"),
        ("int8:4", "takes no argument"),
        ("top_k+int8", "not top_k:K/CHUNK"),
        ("top_k:0/64+int8", "not top_k:K/CHUNK"),
        ("top_k:65/64+int8", "keeps more than a chunk has"),
        ("top_k:64/99999999+int8", "chunks of more than"),
        ("prune:1+int8", "no fraction"),
        ("prune:-0.5+int8", "no fraction"),
        ("prune:nan+int8", "no fraction"),
        ("dct:0+int8", "no edge"),
        ("dct:5000+int8", "no edge"),
    ],
)
def test_a_text_that_names_no_codec_says_what_to_write(text, said):
    with pytest.raises(CodecTextError, match=said) as refused:
        parse_codec(text)
    assert refused.value.remedy
