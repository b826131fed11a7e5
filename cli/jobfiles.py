"""From a job file on this machine to a spec and the bytes that travel with it."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from cli.errors import CliError, usage
from market.batch_forms import BatchFile
from market.client import Market
from market.form_errors import FormError
from market.forms import JobFile, digest_only, make_form, read_job, resolve
from storage.units import counted

SMALL_BYTES = 4 * 1024 * 1024
TOGETHER_BYTES = 8 * 1024 * 1024
TOGETHER_FILES = 1_000
Progress = Callable[[int, int], None]
"""Hears how many bytes are sent, and of how many."""


class Prepared:
    """A normalised spec, and its code and data as they were when the plan was made. Use it with `with`."""

    def __init__(self, form: Callable[[], JobFile | BatchFile], folder: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="torg-submit-")
        self._kept: dict[str, Path] = {}
        try:
            self.spec: dict[str, Any] = resolve(form(), self._keep, folder=folder)
        except FormError as error:
            self._folder.cleanup()
            raise _as_usage(error) from None
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> "Prepared":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def upload(
        self, market: Market, told: Callable[[str], None] | None = None, progress: Progress | None = None
    ) -> int:  # fmt: skip
        """Bring to the market what it does not hold yet, and answer how many bytes that are."""
        missing = market.missing_blobs(list(self._kept)) if self._kept else []
        sizes = {digest: self._kept[digest].stat().st_size for digest in missing}
        total, whole, sent = sum(sizes.values()), sum(path.stat().st_size for path in self._kept.values()), 0
        if told is not None and self._kept:
            of = f" of {whole:,}: the market has the rest" if total < whole else ""
            told(f"uploading {counted(total, 'byte')}{of}")
        for group in _together(sizes):
            if len(group) == 1:
                found = market.upload(self._kept[group[0]])
                assert found == group[0], "a kept file changed"
            else:
                market.upload_files({digest: self._kept[digest] for digest in group})
            sent += sum(sizes[digest] for digest in group)
            if progress is not None:
                progress(sent, total)
        return total

    def _keep(self, path: Path) -> str:
        digest = digest_only(path)
        kept = Path(self._folder.name) / digest
        if not kept.exists():
            _copy(path, kept)
            self._kept[digest] = kept
        return digest


def _together(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Digests in their order, of small files as many at once as make one request."""
    group: list[str] = []
    for digest, size in sizes.items():
        if group and (size > SMALL_BYTES or sum(sizes[one] for one in group) + size > TOGETHER_BYTES or len(group) >= TOGETHER_FILES):
            yield group
            group = []
        group.append(digest)
        if size > SMALL_BYTES:
            yield group
            group = []
    if group:
        yield group


def prepare(file: Path) -> Prepared:
    """Read, check and pack the job file `file`; its paths are relative to its folder. A mistake is a usage error."""
    return Prepared(lambda: read_job(file), file.parent)


def prepare_fields(fields: Mapping[str, Any]) -> Prepared:
    """The same of a batch job's fields as they were typed; its paths are absolute."""
    return Prepared(lambda: make_form(BatchFile, fields), Path())


def _copy(source: Path, target: Path) -> None:
    # What was packed is ours and may be large: a second name for it costs nothing. A customer's own small file may
    # be edited while the plan is read, so that one is copied.
    if source.stat().st_size > SMALL_BYTES:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def _as_usage(error: FormError) -> CliError:
    shown = "" if error.value is None else f" {error.shown}"
    return usage(f"{error.field}:{shown} {error.message}", field=error.field, remedy=error.remedy, code="bad_job_file")
