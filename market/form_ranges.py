"""What a field of a form allows, in words: read from the form's own JSON schema, so that it cannot say anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


def allowed_range(form: type[BaseModel], path: Sequence[str]) -> str | None:
    """Such as "a whole number from 1 to 1024" for `workers.min`; None for a field of which there is nothing to say."""
    whole = form.model_json_schema()
    here: Mapping[str, Any] | None = whole
    for name in path:
        here = _inside(_resolve(whole, here), name)
        if here is None:
            return None
    return _in_words(_resolve(whole, here))


def _inside(schema: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    if name in schema.get("properties", {}):
        found: Mapping[str, Any] = schema["properties"][name]
        return found
    patterned = list(schema.get("patternProperties", {}).values())
    return schema.get("items") or (patterned[0] if patterned else None)


def _resolve(whole: Mapping[str, Any], schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The schema itself, of an optional field the one that is not null."""
    assert schema is not None
    if "$ref" in schema:
        return _resolve(whole, whole["$defs"][schema["$ref"].rpartition("/")[2]])
    for option in schema.get("anyOf", []):
        if option.get("type") != "null":
            return _resolve(whole, option)
    return schema


def _in_words(schema: Mapping[str, Any]) -> str | None:
    kind = _KINDS.get(schema.get("type", ""))
    if kind is None:
        return None
    if "pattern" in schema:  # all of our patterns are of short names
        return "1 to 64 letters, digits, dots, dashes"
    bounds = [
        f"{word} {schema[name]:g}" if isinstance(schema[name], float) else f"{word} {schema[name]}"
        for name, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "to below"))
        if name in schema
    ]  # fmt: skip
    if "maxItems" in schema:
        bounds.append(f"of at most {schema['maxItems']} entries")
    if "maxLength" in schema:
        bounds.append(f"of at most {schema['maxLength']} characters")
    return " ".join([kind, *bounds])
