"""What the grammar library passes over in silence in a JSON schema."""

from collections.abc import Iterator
from typing import Any

NAMES = """
    type const enum anyOf oneOf allOf $ref
    properties patternProperties additionalProperties required minProperties maxProperties
    items prefixItems additionalItems minItems maxItems
    minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf
    $schema $id id $anchor $defs definitions $comment title description default examples deprecated
    readOnly writeOnly contentMediaType contentEncoding contentSchema $vocabulary
    not if then else dependentRequired dependentSchemas dependencies
    unevaluatedProperties unevaluatedItems contains minContains maxContains uniqueItems propertyNames
    $dynamicRef $dynamicAnchor $recursiveRef $recursiveAnchor
"""
# What the library obeys, what is meant for readers, and (the last three lines) what it refuses itself.
KEYWORDS = frozenset(NAMES.split())
OPTIONS = "x-guidance"  # of the library, read at the root
MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
SCHEMAS = ("items", "prefixItems", "additionalItems", "additionalProperties", "anyOf", "oneOf", "allOf")


def unknown_keywords(schema: dict[str, Any]) -> list[str]:
    """Return where a schema has keys that mean nothing, such as `maxLenght`, unless a `$ref` leads there."""
    parts = list(_subschemas(schema))
    referred = {str(part.get("$ref", "")).removeprefix("#/").partition("/")[0] for _, part in parts}
    return [
        path + key
        for path, part in parts
        for key in part
        if key not in KEYWORDS and (path or (key != OPTIONS and key not in referred))
    ]


def repeatable_keys(schema: dict[str, Any]) -> list[str]:
    """Return where `minProperties` could be met by writing one key twice.

    Named keys come once and in order; of two that the schema leaves free, both may be the same.
    """
    return [
        f"{path}minProperties: {part['minProperties']}"
        for path, part in _subschemas(schema)
        if _num_free_keys(part) > 1
    ]


def _num_free_keys(part: dict[str, Any]) -> int:
    """Return how many keys that have no name `minProperties` asks for."""
    least, types = part.get("minProperties", 0), part.get("type", "object")
    is_closed = part.get("additionalProperties") is False and not part.get("patternProperties")
    if is_closed or "object" not in types or not isinstance(least, int | float):
        return 0
    return int(least) - len({*part.get("properties", ()), *part.get("required", ())})


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a schema and all within it, each with the path before its keys."""
    waiting: list[tuple[str, Any]] = [("", schema)]
    while waiting:
        path, part = waiting.pop()
        if isinstance(part, list):
            waiting += [(f"{path}{place}.", one) for place, one in enumerate(part)]
        if not isinstance(part, dict):
            continue
        yield path, part
        for key in SCHEMAS:
            waiting.append((f"{path}{key}.", part.get(key)))
        for key in MAPS_OF_SCHEMAS:
            inner = part.get(key)
            if isinstance(inner, dict):
                waiting += [(f"{path}{key}.{name}.", one) for name, one in inner.items()]
