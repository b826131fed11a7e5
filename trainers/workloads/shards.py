"""Tokenised data in many files, read by windows: `.npy` arrays or raw `.bin` files of uint8, uint16 or uint32.

Files are memory-mapped when they are needed, a few at a time. A window is context + 1 tokens of one file, so that the
targets of two neighbours do not overlap; the tail of a file that fills no window is left out.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainers.workloads.streams import Draws, epoch_offsets

__all__ = ["TokenShards", "shard_files"]

SUFFIXES = (".bin", ".npy")
OPEN_FILES = 32
TYPES = ("uint8", "uint16", "uint32")


def shard_files(folder: Path) -> list[Path]:
    """All `.bin` and `.npy` files at or below `folder`, by relative path."""
    found = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    return sorted((path for path in found if path.suffix in SUFFIXES), key=lambda path: path.as_posix())


class TokenShards:
    """All windows of the files, numbered 0 … count−1 in the files' order."""

    def __init__(self, files: Sequence[Path], context: int, dtype: str = "uint16") -> None:
        """`dtype` is that of `.bin` files. Raises ValueError naming a file that holds no such tokens."""
        self.files, self.context, self.dtype = tuple(files), context, dtype
        self._open: OrderedDict[int, npt.NDArray[np.unsignedinteger]] = OrderedDict()
        self.tokens = np.array([self._map(number).size for number in range(len(files))], dtype=np.int64)
        windows = np.maximum(0, (self.tokens - context) // context)  # so many fit whatever the offset below context
        self._ends = np.cumsum(windows)
        self.count = int(self._ends[-1]) if len(files) else 0

    def windows(self, samples: Iterable[int], offsets: Iterable[int]) -> npt.NDArray[np.int64]:
        """Windows by number, each begun `offset` tokens (0 … context−1) further on: int64 [B, context + 1]."""
        return np.stack([self._window(int(s), int(o)) for s, o in zip(samples, offsets, strict=True)])

    def drawn(self, draws: Draws, seed: int) -> npt.NDArray[np.int64]:
        """The windows of a batch of a `SampleStream`, cut at other places in each epoch: int64 [B, context + 1]."""
        return self.windows(draws.samples, epoch_offsets(seed, draws.epochs, self.context))

    def file_of(self, sample: int) -> Path:
        """Where a window lies."""
        return self.files[self._place(sample)[0]]

    def _window(self, sample: int, offset: int) -> npt.NDArray[np.int64]:
        assert 0 <= offset < self.context, "a window moves by less than its length"
        number, within = self._place(sample)
        start = within * self.context + offset
        return self._map(number)[start : start + self.context + 1].astype(np.int64)

    def _place(self, sample: int) -> tuple[int, int]:
        assert 0 <= sample < self.count, "no such window"
        number = int(np.searchsorted(self._ends, sample, side="right"))
        return number, sample - (int(self._ends[number - 1]) if number else 0)

    def _map(self, number: int) -> npt.NDArray[np.unsignedinteger]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        while len(self._open) >= OPEN_FILES:
            self._open.popitem(last=False)
        self._open[number] = mapped_tokens(self.files[number], self.dtype)
        return self._open[number]


def mapped_tokens(path: Path, dtype: str) -> npt.NDArray[np.unsignedinteger]:
    """The file's tokens [n], memory-mapped read-only. Raises ValueError naming the file."""
    size = path.stat().st_size
    if path.suffix == ".npy":
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path.name} is no .npy array: {error}") from None
        if found.ndim != 1 or found.dtype.name not in TYPES:
            raise ValueError(f"{path.name} holds {found.dtype.name} of shape {found.shape}, not a row of {TYPES}")
        tokens: npt.NDArray[np.unsignedinteger] = found
        return tokens
    width = np.dtype(dtype).itemsize
    if size == 0 or size % width:
        raise ValueError(f"{path.name} has {size} bytes, which are no {dtype} tokens of {width} bytes")
    return np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
