"""What a line that typer does not take is told in: the option or argument as it is typed, the value, where to look."""

from typing import Any

from typer.exceptions import TyperException

from cli.errors import CliError, usage


def wrong_line(error: TyperException) -> CliError:
    """A usage error that names the parameter by the word of the help page, the value that was given, and that page."""
    context = getattr(error, "ctx", None)
    remedy = f"see `{context.command_path} --help`" if context is not None else None
    name = _name(error)
    return usage(_refused_value(error, name) or error.format_message().rstrip("."), field=name, remedy=remedy)


def _name(error: TyperException) -> str | None:
    parameter: Any = getattr(error, "param", None)
    if parameter is None:
        return getattr(error, "option_name", None)
    return str(parameter.opts[-1] if parameter.param_type_name == "option" else parameter.metavar or parameter.name)


def _refused_value(error: TyperException, name: str | None) -> str | None:
    """The value and what it should have been, where a value was looked at."""
    causes = getattr(error.__cause__, "errors", None)
    if name is None or causes is None:
        return None
    first = causes()[0]
    should = first["msg"].partition(", unable to parse")[0]
    return f"{name} {first['input']!r} is not allowed: {should[0].lower()}{should[1:]}"
