"""A job's segments as OpenLineage run events, START and COMPLETE of each, for catalogues that read them (openlineage.io, 2-0-2).

A run is a segment; its inputs are data, code and the checkpoint before, its output the checkpoint. Facets of our own are called
`torg_…` and say where the log has each thing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

SCHEMA: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACET: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet"
DATASET_FACET: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/DatasetFacet"
PRODUCER: Final = "urn:torg:provenance"
Json = Mapping[str, Any]


def run_events(market: str, job: str, statements: Sequence[Json]) -> list[dict[str, Any]]:
    """Two events a segment, in order of time."""
    return [event for statement in statements for event in _events(market, job, statement)]


def _events(market: str, job: str, statement: Json) -> list[dict[str, Any]]:
    predicate = statement["predicate"]
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    metadata, namespace = details["metadata"], f"torg://{market}"
    run_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{namespace}/{metadata['invocationId']}"))
    facet = {
        "_producer": PRODUCER, "_schemaURL": FACET, **definition["internalParameters"],
        "log": details["torg_log"], "work": details["torg_work"], "metrics": details["torg_metrics"],
    }  # fmt: skip
    common = {"producer": PRODUCER, "schemaURL": SCHEMA, "job": {"namespace": namespace, "name": job}}
    inputs = [_dataset(namespace, job, one) for one in definition["resolvedDependencies"]]
    made = {**_named(namespace, statement["subject"][0]["name"]), "facets": _facets(statement["subject"][0])}
    begun = {"eventType": "START", "eventTime": metadata["startedOn"], "run": {"runId": run_id}, "inputs": inputs, "outputs": []}
    ended = {
        "eventType": "COMPLETE", "eventTime": metadata["finishedOn"],
        "run": {"runId": run_id, "facets": {"torg_segment": facet}}, "inputs": inputs, "outputs": [made],
    }  # fmt: skip
    return [begun | common, ended | common]


def _dataset(namespace: str, job: str, one: Json) -> dict[str, Any]:
    label = one["annotations"]["label"]
    name = label if one["name"] == "parent" else f"{job}/{one['name']}/{label}"
    return {**_named(namespace, name), "facets": _facets(one)}


def _named(namespace: str, name: str) -> dict[str, Any]:
    return {"namespace": namespace, "name": name}


def _facets(one: Json) -> dict[str, Any]:
    """What holds a dataset to its bytes, where it has a digest."""
    if "digest" not in one:
        return {}
    return {"torg_digest": {"_producer": PRODUCER, "_schemaURL": DATASET_FACET, **one["digest"]}}
