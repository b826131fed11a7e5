"""`torg exec` and `torg shell`: inside the sandbox of a running job's command."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from cli.errors import usage
from cli.settings import Settings
from storage.units import TimeError, parse_duration_ms

JobId = Annotated[str, typer.Argument(metavar="JOB", help="a batch job that runs")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("exec")(exec_)
    app.command("shell")(shell)


def exec_(
    ctx: typer.Context,
    job_id: JobId,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD…", help="the command and its arguments")],
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="pass stdin also from a terminal; what is piped is passed always")
    ] = False,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="end it after so long: 30s, 5m; exit code 124")] = None,
) -> None:
    """Run a command inside a running job: same sandbox, files, environment and limits as the job's own command.

    Its exit code is torg's; Ctrl-C goes to it. 255: the machine was lost or the job's command ended first.
    """
    settings: Settings = ctx.obj
    if settings.as_json:
        raise usage("--json has no meaning here: the output is the command's", field="--json")
    order: dict[str, Any] = {"kind": "exec", "argv": list(command), "timeout_ms": _timeout_ms(timeout)}
    from cli.remote import Remote, run
    from trainers.sessions import frames

    remote = Remote(settings, job_id, order)
    if interactive or not _is_terminal(0):
        remote.feed(_stdin)
    else:
        remote.put(frames.STDIN_END)
    raise typer.Exit(run(remote))


exec = exec_  # the name by which the line finds it


def shell(ctx: typer.Context, job_id: JobId) -> None:
    """A shell inside a running job, on a terminal of its own. Ctrl-D ends it."""
    settings: Settings = ctx.obj
    if not (_is_terminal(0) and _is_terminal(1)):
        remedy = f"torg exec -i {job_id} -- sh runs what is piped to it"
        raise usage("a shell needs a terminal, and stdin or stdout is none", remedy=remedy)
    from cli.remote import Remote, run

    columns, rows = os.get_terminal_size(0)
    term = os.environ.get("TERM", "")
    remote = Remote(settings, job_id, {"kind": "shell", "rows": rows, "columns": columns, "term": term[:64]})
    with _raw(), _resizing(remote):
        remote.feed(_stdin)
        code = run(remote)
    raise typer.Exit(code)


def _timeout_ms(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        found = parse_duration_ms(text)
    except TimeError as error:
        raise usage(f"--timeout {text!r}: {error.message}", field="--timeout") from None
    if not 1 <= found <= 7 * 86_400_000:
        raise usage(f"--timeout {text!r} is out of range", field="--timeout", remedy="allowed: 1ms to 7d")
    return found


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _stdin(most: int) -> bytes:
    return os.read(0, most)


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Our terminal passes every key on; it is as before afterwards, however this ends."""
    import termios
    import tty

    before = termios.tcgetattr(0)

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _resizing(remote: Any) -> Iterator[None]:
    from trainers.sessions import frames

    def resize(*_: object) -> None:
        columns, rows = os.get_terminal_size(0)
        remote.put(frames.SIZE, rows.to_bytes(2, "big") + columns.to_bytes(2, "big"))

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
        sys.stdout.flush()
