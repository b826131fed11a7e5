"""How long `torg offers` takes, against a Python that imports typer and rich, in turn in the same run.

python -m benchmarks.command_line --json
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Target, finish, paired_ratio, parser, say
from market import supervisor

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--pairs", type=int, default=15)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="torg-bench-") as folder:
        home = Path(folder)
        say(chosen.json, "starting a market without Ray")
        supervisor.start(home, no_ray=True)
        environment = os.environ | {"TORG_HOME": str(home), "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}

        def offers() -> None:
            subprocess.run([sys.executable, "-m", "cli", "offers"], env=environment, check=True, capture_output=True)

        def bare() -> None:
            subprocess.run(
                [sys.executable, "-c", "import typer, rich"], env=environment, check=True, capture_output=True
            )

        try:
            ratio, ours, theirs = paired_ratio(chosen.pairs, offers, bare)
        finally:
            supervisor.stop(home)
    figures = {"offers_s": ours, "import_typer_rich_s": theirs, "offers_ratio_to_bare_import": ratio}
    return finish(figures, {"offers_ratio_to_bare_import": Target(ratio, 2.0)}, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
