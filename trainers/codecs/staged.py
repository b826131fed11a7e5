"""A codec as its stages: transform, selection, values. Each may be missing but the last.

Payload: three bytes that name the value codec, one byte of version and stages, the number of elements as u64; then the
places of a selection, if there is one; then the body of the value codec. Nothing else is told: K, CHUNK, FRACTION and
EDGE are the job's, and whoever decodes knows them as it knows the number of elements.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.codec_text import CodecSpec, TopK
from trainers.codecs.base import HEADER, BadPayload, Encoded, Payload, Values, Vector, refuse_not_finite
from trainers.codecs.dct import Dct
from trainers.codecs.selection import Selection, runs_of
from trainers.filled import joined
from trainers.layout import Layout, elements_of, flat_layout

VERSION, WITH_TOP_K, WITH_PRUNE, WITH_DCT = 1, 16, 32, 64


class Staged:
    """See `Codec`."""

    def __init__(self, spec: CodecSpec, values: Values, layout: Layout | None) -> None:
        """`layout` says where the tensors are whose blocks are transformed; None: one flat tensor of any length."""
        self.spec, self.name, self.dense, self.lossless = spec, spec.text, spec.dense, spec.lossless
        self._values, self._layout = values, layout
        flags = 0 if spec.selection is None else WITH_TOP_K if isinstance(spec.selection, TopK) else WITH_PRUNE
        self._magic = values.magic + bytes([VERSION | flags | (0 if spec.edge is None else WITH_DCT)])
        # Prepared once a length: a job has one, streaming fragments a few.
        self._selection = lru_cache(16)(self._make_selection)
        self._transform = lru_cache(16)(self._make_transform)

    def __repr__(self) -> str:
        return f"Staged({self.name})"

    def promised_bytes(self, elements: int) -> int:
        """See `Codec`."""
        selection = self._selection(elements)
        if selection is None:
            return HEADER.size + self._values.body_bytes(elements)
        return HEADER.size + selection.size_bytes + self._values.body_bytes(selection.count)

    def encode(self, vector: Vector) -> Encoded:
        """See `Codec`."""
        return joined(self.encode_parts(vector))

    def encode_parts(self, vector: Vector) -> Sequence[bytes | NDArray[Any]]:
        """See `Codec`."""
        assert vector.ndim == 1, "codecs take flat vectors"
        transform, selection = self._transform(vector.size), self._selection(vector.size)
        parts: list[bytes | NDArray[Any]] = [HEADER.pack(self._magic, vector.size)]
        values = np.ascontiguousarray(vector, dtype=np.float32)
        if transform is not None:
            values = transform.forward(values)
        if selection is not None:
            refuse_not_finite(values)
            places = selection.choose(values)
            parts.append(selection.pack(places).tobytes())
            values = values[places]
        body = self._values.encode(values) if values.size else []
        return [*parts, *body]

    def decode(self, payload: Payload, elements: int) -> Vector:
        """See `Codec`."""
        if self.spec.edge is not None and self._layout is not None and elements != elements_of(self._layout):
            raise BadPayload(f"{elements} elements; the model's layout has {elements_of(self._layout)}")
        promised, whole = self.promised_bytes(elements), memoryview(payload).cast("B")
        if len(whole) != promised:
            raise BadPayload(f"{len(whole)} bytes; {elements} elements are {promised}")
        if whole[: HEADER.size] != HEADER.pack(self._magic, elements):
            raise BadPayload("not the header of this codec and length")
        body, transform, selection = whole[HEADER.size :], self._transform(elements), self._selection(elements)
        if selection is None:
            vector = self._decoded(body, elements)
        else:
            places = selection.unpack(np.frombuffer(body[: selection.size_bytes], dtype=np.uint8))
            vector = np.zeros(elements, dtype=np.float32)
            vector[places] = self._decoded(body[selection.size_bytes :], selection.count)
        if transform is not None:
            vector = transform.inverse(vector)
            refuse_not_finite(vector)
        return vector

    def _decoded(self, body: memoryview, count: int) -> Vector:
        return self._values.decode(body, count) if count else np.empty(0, dtype=np.float32)

    def _make_transform(self, elements: int) -> Dct | None:
        return None if self.spec.edge is None else Dct(self._tensors(elements), self.spec.edge)

    def _make_selection(self, elements: int) -> Selection | None:
        chosen = self.spec.selection
        if chosen is None:
            return None
        if isinstance(chosen, TopK):
            # Coefficients compete within their tensor; without a transform nothing is known of tensors.
            tensors = self._tensors(elements) if self.spec.edge is not None else flat_layout(elements)
            runs = runs_of([(one.offset, one.size) for one in tensors], chosen.chunk, chosen.kept)
            return Selection(elements, runs, chosen.chunk, chosen.kept)
        kept = elements - int(elements * chosen.fraction)
        return Selection(elements, runs_of([(0, elements)], max(1, elements), kept), elements, kept)

    def _tensors(self, elements: int) -> Layout:
        layout = flat_layout(elements) if self._layout is None else self._layout
        assert elements_of(layout) == elements, f"{elements} elements for a layout of {elements_of(layout)}"
        return layout
