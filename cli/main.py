"""The `torg` program: global options, the verb that was asked for, and how it ends.

A verb group's module is imported when one of its verbs is asked for, so a person who types
`torg offers` does not wait for the parts that `torg submit` needs.
"""

import gc
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from cli import fast_lane
from cli.arguments import Globals, hoist
from cli.errors import CliError, Exit, usage
from cli.session import market_errors
from cli.settings import Settings, current_settings
from cli.wrong_lines import wrong_line

VERBS = {
    "up": "market", "down": "market", "status": "market", "invite": "market",
    "blobs": "blobs", "backup": "backup", "restore": "backup", "members": "members", "teams": "teams", "join": "join",
    "provide": "provide", "provider": "provider",
    "offers": "offers", "prices": "prices",
    "submit": "submit", "run": "run",
    "jobs": "jobs", "job": "jobs", "cancel": "jobs", "resume": "jobs", "explain": "jobs", "logs": "jobs",
    "exec": "inside", "shell": "inside", "cp": "cp",
    "watch": "watch", "metrics": "metrics", "retune": "retune", "result": "result",
    "wallet": "wallet", "secret": "secret",
    "billing": "billing", "dispute": "dispute", "statement": "statement", "invoice": "billing", "sql": "billing",
    "provenance": "proof", "verify": "proof", "head": "proof",
    "books": "books", "torture": "torture",
    "clear": "clear", "simulate": "simulate", "replay": "replay",
    "demo": "demo",
}  # fmt: skip
PANELS = {
    "The market": "up down status backup restore blobs demo",
    "Machines": "provide provider offers prices",
    "Jobs": "submit run jobs job explain cancel resume retune watch logs metrics result secret",
    "Inside a running job": "exec shell cp",
    "Money and proof": "wallet billing invoice dispute statement sql provenance verify head books replay",
    "Members": "join invite members teams",
    "Without a market": "clear simulate torture",
}  # fmt: skip
HELP = "An open exchange for training compute: offer GPUs, rent them, train through deaths, read the bill."
EPILOG = "Anywhere on the line: --json, --url URL, --key KEY, --home DIR, --ca FILE. Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 no market."


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    for closed in ("stdout", "stderr"):
        if getattr(sys, closed) is None:  # `torg … >&-`: whoever has closed it does not want to read it
            setattr(sys, closed, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the end
    code = run(sys.argv[1:] if argv is None else argv)
    if "duckdb" not in sys.modules:  # its binding reports all that is left as leaks, on stderr
        gc.freeze()  # what is left goes with the process: its end need not look through everything that was imported for cycles
    sys.exit(code)


def run(argv: Sequence[str]) -> int:
    """Run one command; print its error if it has one; return the exit code."""
    as_json = "--json" in argv
    try:
        named, words = hoist(argv)
        as_json = named.as_json
        with market_errors():
            code = _dispatch(named, words)
            sys.stdout.flush()
            return code
    except CliError as error:
        return _fail(error, as_json)
    except TyperException as error:
        # A group without a verb has printed its help page already.
        return _fail(wrong_line(error), as_json) if error.format_message() else int(Exit.USAGE)
    except typer.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, EOFError, typer.Abort):
        print("torg: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _write_no_more()  # whoever read our output has closed it (`torg offers | head`)
        return Exit.DONE
    except OSError as error:
        return _fail(_system_error(error), as_json)


def build(words: Sequence[str], settings: Settings | None = None) -> typer.Typer:
    """The typer app with the groups that `words` needs: one, or all of them for the help page."""
    app = typer.Typer(
        name="torg", help=HELP, epilog=EPILOG, add_completion=False, pretty_exceptions_enable=False,
        rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"], "obj": settings},
    )  # fmt: skip
    app.callback()(_root)
    verb = words[0] if words else ""
    modules = [VERBS[verb]] if verb in VERBS else list(dict.fromkeys(VERBS.values()))
    for module in modules:
        import_module(f"cli.verbs.{module}").register(app)
    panel_of = {verb: panel for panel, verbs in PANELS.items() for verb in verbs.split()}
    for command in app.registered_commands:
        command.rich_help_panel = panel_of[str(command.name)]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        group.rich_help_panel = panel_of[str(group.typer_instance.info.name)]
    return app


def _root() -> None:
    """Only verbs do something."""


def _dispatch(named: Globals, words: list[str]) -> int:
    if words[:1] == ["--version"]:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(version("torg"))
        except PackageNotFoundError:
            print("unreleased")
        return Exit.DONE
    if not words:
        words = ["--help"]
    if words[0] not in VERBS and not words[0].startswith("-"):
        import difflib

        near = difflib.get_close_matches(words[0], VERBS, n=1)
        raise usage(f"no verb {words[0]!r}", remedy=f"did you mean `torg {near[0]}`?" if near else "see `torg --help`")
    settings = current_settings(named)
    if words[0] in fast_lane.VERBS:
        verb = getattr(import_module(f"cli.verbs.{VERBS[words[0]]}"), words[0])
        values = fast_lane.match(verb, words[1:])
        if values is not None:
            verb(fast_lane.Context(settings), **values)
            return Exit.DONE
    if not {"-h", "--help"}.isdisjoint(words):
        import_module("cli.help_pages").fold_long_words()
    program = typer.main.get_command(build(words, settings))
    with program.make_context("torg", words) as context:  # its own `main` would swallow a Ctrl-C, and a closed pipe
        program.invoke(context)
    return Exit.DONE


def _write_no_more() -> None:
    """A flush at exit must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _system_error(error: OSError) -> CliError:
    """What the system would not do, such as writing to a full disk, where no part of the command has a better word for it."""
    where = f"{error.filename}: " if error.filename else ""
    return CliError("system_error", f"{where}{error.strerror or error}")


def _fail(error: CliError, as_json: bool) -> int:
    print(error.line(), file=sys.stderr)
    try:
        if as_json:
            print(json.dumps(error.document()))
        sys.stdout.flush()
    except OSError:
        _write_no_more()
    return int(error.exit_code)
