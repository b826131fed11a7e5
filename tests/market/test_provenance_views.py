"""What is shown of a provenance is what the statements say: picture, model card, OpenLineage events."""

import copy
import json
import xml.etree.ElementTree as ElementTree
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from cli.provenance_views import view
from market.lineage_picture import MOST_SEGMENTS, lineage_page, lineage_svg
from market.model_card import model_card
from market.openlineage import run_events
from storage.dsse import payload_of
from storage.provenance import load_bundle

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-2.json"
Json = dict[str, Any]


@pytest.fixture
def bundle() -> Json:
    found: Json = load_bundle(GOLDEN.read_bytes())
    return found


@pytest.fixture
def statements(bundle: Json) -> list[Json]:
    return [load_bundle(payload_of(one)) for one in bundle["body"]["statements"]]


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]


def test_the_picture_has_every_segment_machine_and_checkpoint(statements: list[Json]) -> None:
    shown = texts(lineage_svg("job-1", statements))
    for said in ("Segment 1", "Segment 2", "Checkpoint of round 2", "p1: 1 × cpu", "p2: 1 × cpu", "builtin:byte_lm", "torch 2.9", "held-out loss 3"):
        assert said in shown
    assert f"sha256 {statements[0]['subject'][0]['digest']['sha256'][:16]}…" in shown


def test_a_long_job_is_drawn_with_its_ends(statements: list[Json]) -> None:
    shown = texts(lineage_svg("job-1", statements[:1] * 100))
    assert sum(text == "Segment 1" for text in shown) == MOST_SEGMENTS
    assert f"… {100 - MOST_SEGMENTS} segments more …" in shown


def test_names_are_not_markup(statements: list[Json]) -> None:
    evil = "<script>x()</script>&"
    statements[0]["predicate"]["runDetails"]["torg_work"][0]["provider"] = evil
    page = lineage_page(evil, statements, evil)
    assert "<script" not in page
    assert f"{evil}: 1 × cpu" in texts(lineage_svg("job-1", statements))
    assert texts(lineage_svg(evil, [])) == [evil, "no segment yet"]


def test_the_card_has_the_real_figures_and_says_what_nobody_said(bundle: Json, statements: list[Json]) -> None:
    card = model_card(bundle, statements)
    assert card.startswith("---\ntags:\n- torg\n")
    for said in ("| 2 | 3 |", "| p1 | 1 × cpu | 60 | 2,000 | 2.0 s |", "`1`", statements[-1]["subject"][0]["digest"]["sha256"], bundle["body"]["head"]["root"]):
        assert said in card
    assert "Licence, intended use and limits: not stated" in card
    bare = copy.deepcopy(statements)
    for one in bare:
        for row in one["predicate"]["runDetails"]["torg_metrics"]:
            row.pop("held_out_loss", None)
    assert "No held-out data were evaluated." in model_card(bundle, bare)
    assert "No checkpoint of this job is durable yet." in model_card(bundle, [])


def test_openlineage_events_have_what_its_schema_demands(bundle: Json, statements: list[Json]) -> None:
    events = run_events("square", "job-1", statements)
    assert [one["eventType"] for one in events] == ["START", "COMPLETE"] * 2
    for one in events:
        assert {"eventTime", "producer", "schemaURL", "run", "job"} <= set(one)
        assert UUID(one["run"]["runId"]).version == 5
        assert datetime.fromisoformat(one["eventTime"]).tzinfo is not None
        for dataset in (one["job"], *one["inputs"], *one["outputs"]):
            assert dataset["namespace"] == "torg://square"
            assert dataset["name"]
        facets = [*one["run"].get("facets", {}).values(), *(facet for each in one["inputs"] + one["outputs"] for facet in each["facets"].values())]
        assert all({"_producer", "_schemaURL"} <= set(facet) for facet in facets)
    assert events[3]["inputs"][-1]["name"] == events[1]["outputs"][0]["name"], "a segment's output is the next one's input"
    assert events == run_events("square", "job-1", statements), "the same ids for the same segments"
    assert len(view("--openlineage", Path("x"), bundle).splitlines()) == 4


def test_envelopes_go_one_a_line(bundle: Json) -> None:
    assert [json.loads(line) for line in view("--dsse", Path("x"), bundle).splitlines()] == bundle["body"]["statements"]
