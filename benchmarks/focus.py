"""Whether what `torg billing --focus` writes passes focus-validator: `make focus`. Prints one JSON line; 1 when it does not.

focus-validator 2.2.1 needs Python 3.12 and comes with the rules of FOCUS 1.2 alone; those of newer versions it downloads. So
this runs in an environment of its own, without network, on the newest version whose rules are in the package.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from storage.focus import VERSION
from tests.storage.books_examples import DAY_MS, example_story, transfer, write

EITHER_OR: Final = frozenset({"InvoiceId-C-004-C"})
"""One half of «null where there is no invoice, or not null where there is one»; of the rule above it the validator says PASS."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="of the environment that has focus-validator")
    python: Path = parser.parse_args().python.absolute()
    found = subprocess.run([python, "-c", "import focus_validator; print(focus_validator.__path__[0])"], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory(prefix="torg-focus-") as name:
        folder = Path(name)
        bill = _export(folder)
        # It opens its own currency codes by a path below the working folder.
        (folder / "focus_validator").symlink_to(found.stdout.strip())
        line = [python.parent / "focus-validator", "--block-download", "--validate-version", VERSION, "--data-file", bill]
        said = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    results = dict(re.findall(r"^\S+ ([\w-]+): (PASS|FAIL)", said.stdout, re.M))
    failed = sorted(rule for rule, result in results.items() if result == "FAIL")
    good = bool(results) and set(failed) <= EITHER_OR and results.get("InvoiceId-C-003-C") == "PASS"
    print(json.dumps({"focus": VERSION, "rules": len(results), "failed": failed, "ok": good}))
    if not results:
        print(said.stdout[-2000:] + said.stderr[-2000:], file=sys.stderr)
    return 0 if good else 1


def _export(folder: Path) -> Path:
    """The bill of the books' example, with a job that granted credits paid in part, of which some were given back."""
    story, bill = example_story(), folder / "bill.csv"
    story.add(DAY_MS, transfer("grant-1", "grant", "grants", "credit:g1", 40_000))
    story.add(DAY_MS, transfer("hold-granted", "hold", "credit:g1", "escrow:job-a", 40_000, "job-a"))
    story.add(3 * DAY_MS, transfer("refund:x:fee", "refund", "fee", "wallet:ann", 700, "job-a", "lease-000001"))
    story.add(3 * DAY_MS, transfer("refund:x:fee:g1", "refund", "fee", "credit:g1", 300, "job-a", "lease-000001"))
    write(folder / "home" / "journal", story.records)
    torg = [sys.executable, "-m", "cli", "--home", folder / "home", "billing", "--role", "operator", "--focus", bill]
    subprocess.run(torg, check=True, stdout=subprocess.DEVNULL)
    return bill


if __name__ == "__main__":
    sys.exit(main())
