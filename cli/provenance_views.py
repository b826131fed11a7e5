"""What `torg provenance` writes beside the bundle: a picture, OpenLineage events, a model card, envelopes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def view(option: str, file: Path, bundle: dict[str, Any]) -> str:
    """The text of the file that an option asks for."""
    from market.lineage_picture import lineage_page, lineage_svg
    from market.model_card import model_card
    from market.openlineage import run_events
    from storage.dsse import payload_of
    from storage.provenance import load_bundle

    body = bundle["body"]
    statements = [load_bundle(payload_of(one)) for one in body["statements"]]
    if option == "--dsse":
        return "".join(json.dumps(one, sort_keys=True) + "\n" for one in _envelopes(body))
    if option == "--openlineage":
        events = run_events(body["market"], body["job"], statements)
        return "".join(json.dumps(one, ensure_ascii=False, sort_keys=True) + "\n" for one in events)
    if option == "--card":
        return model_card(bundle, statements)
    assert option == "--graph", option
    if file.suffix == ".svg":
        return lineage_svg(body["job"], statements)
    return lineage_page(body["job"], statements, body["market"])


def _envelopes(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each segment's, signed by the market, and behind it those of its workers, each signed by its lease's key."""
    from storage.dsse import enveloped
    from storage.log_proofs import logged
    from storage.segment_statements import story_of, worker_words

    story = story_of(logged(body))
    for segment, one in zip(story.segments, body["statements"], strict=True):
        yield one
        rounds = segment.event["statement"]["predicate"]["rounds"]
        for number in range(rounds["first"], rounds["last"] + 1):
            for word in worker_words(story, number):
                yield enveloped(word.statement, {word.public_key: word.signature})
