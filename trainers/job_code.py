"""From what a job says its workload is to the class: built in, or in the customer's own source. Runs in the child."""

import linecache
import re
import sys
import types
from pathlib import Path
from typing import Any

from trainers.workload import Workload, built_in


class ImportFailed(Exception):
    """The customer's file does not import or holds no Workload."""


def find_workload(described: dict[str, Any], source: bytes) -> type[Workload]:
    """The class that the spec names, built in or from the customer's source. Raises ImportFailed."""
    if described["kind"] == "builtin":
        return built_in(described["name"])
    filename = Path(described.get("filename") or "workload.py").name
    module = types.ModuleType("job_" + re.sub(r"\W", "_", Path(filename).stem))
    module.__file__ = filename
    try:
        text = source.decode()
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        sys.modules[module.__name__] = module
        exec(compile(text, filename, "exec"), module.__dict__)  # noqa: S102  what this process is for
    except (Exception, SystemExit) as failure:
        raise ImportFailed(str(failure)) from failure
    return workload_in(module, described.get("class_name"), filename)


def workload_in(module: types.ModuleType, class_name: str | None, filename: str) -> type[Workload]:
    """The named subclass of Workload, or the only one that the module defines. Raises ImportFailed."""
    own = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Workload) and value.__module__ == module.__name__
    }
    if class_name and class_name in own:
        return own[class_name]
    if class_name or len(own) != 1:
        found = ", ".join(sorted(own)) or "none"
        wanted = f"no Workload named {class_name}" if class_name else "not exactly one Workload"
        raise ImportFailed(f"{filename} defines {wanted}; it defines {found}")
    return next(iter(own.values()))
