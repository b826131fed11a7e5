"""The newest head of the log that each member has cosigned: the market hands them to everybody who asks for a head.

They are in a file of the home (`cosigned.json`), not in the journal: a head that is cosigned would make the next one. A file
that is lost is made again by the next cosignatures.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path

from market.homes import read_json, write_file
from storage.cosignatures import MOST_COSIGNATURES, Cosignature, CosignedHead, check_cosignature
from storage.tree_heads import BadHead, TreeHead

log = logging.getLogger("torg.api")

MOST_MEMBERS = 256
MOST_SHOWN = 16


class CosignedHeads:
    """By member; those that cosigned the largest logs are kept, up to MOST_MEMBERS."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._newest: dict[str, tuple[TreeHead, Cosignature]] = {}
        try:
            for one in map(CosignedHead.parse, read_json(file).get("heads", [])):
                self._newest |= {each.member: (one.head, each) for each in one.cosignatures}
        except (OSError, ValueError) as error:  # BadHead is a ValueError
            log.error("%s cannot be read, and begins anew: %s", file, error)

    def note(self, head: TreeHead, cosignature: Cosignature) -> None:
        """Keep what a member cosigned, unless it has cosigned a larger log. Raises BadHead, NoSignatures."""
        if head.size < 1:
            raise BadHead("a head that is cosigned has a record at least")
        head.check_signature()
        check_cosignature(head, cosignature)
        before = self._newest.get(cosignature.member)
        if before is not None and before[0].size > head.size:
            return
        self._newest[cosignature.member] = (head, cosignature)
        kept = sorted(self._newest.items(), key=lambda one: (-one[1][0].size, one[0]))[:MOST_MEMBERS]
        self._newest = dict(kept)
        content = json.dumps({"heads": [one.to_json() for one in self._grouped()]}, indent=1) + "\n"
        write_file(self._file, content.encode("utf-8"), mode=0o600, durable=False)

    def newest(self, most: int = MOST_SHOWN, *, up_to: int | None = None) -> list[CosignedHead]:
        """Cosigned heads, largest first; up_to: of logs of so many records at most."""
        return [one for one in self._grouped() if up_to is None or one.head.size <= up_to][:most]

    def _grouped(self) -> list[CosignedHead]:
        """One for each log that was cosigned. Members that saw it at two moments hold heads that differ in time alone."""
        found: dict[tuple[int, str], CosignedHead] = {}
        for head, one in self._newest.values():
            place = (head.size, head.root)
            known = found.get(place, CosignedHead(head, ()))
            if len(known.cosignatures) < MOST_COSIGNATURES:
                found[place] = replace(known, cosignatures=(*known.cosignatures, one))
        return sorted(found.values(), key=lambda one: (-one.head.size, one.head.root))
