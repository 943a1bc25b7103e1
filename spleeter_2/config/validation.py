"""JSON object -> validated struct; every fault becomes one sentence that names its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, inspect

from spleeter_2.errors import SeparationError

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Probability = Annotated[float, Meta(ge=0, le=1)]

NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "array": "a list",
    "object": "an object",
}
NB_KNOWN = 12  # a longer list of known keys is not printed


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all structs that are read from JSON.

    Types and bounds are checked by ``parse``; ``__post_init__`` checks what fields mean together.
    """


Kind = TypeVar("Kind", bound=Options)


def require(condition: bool, sentence: str) -> None:
    """Raise ValueError unless the condition holds; for ``__post_init__``.

    Args:
        sentence: begins with a key, since ``parse`` writes the object's place in front of it.
    """
    if not condition:
        raise ValueError(sentence)


def parse(kind: type[Kind], data: dict[str, Any]) -> Kind:
    """Validate a JSON object.

    Raises:
        SeparationError: one sentence with the place (``model.frequency[0].bands``) and the fault.
    """
    try:
        return msgspec.convert(data, kind, dec_hook=_to_path)
    except msgspec.ValidationError as error:
        raise SeparationError(_describe(error, kind, data)) from error
    except UnicodeEncodeError as error:  # JSON can hold half of a character: "\\ud800"
        raise SeparationError(f"{error.object!r} is no text: write it anew") from error


def _to_path(_: type[Path], value: Any) -> Path:
    """msgspec's hook for types that JSON does not have: paths only."""
    if not isinstance(value, str):
        raise TypeError("Expected `str`")
    return Path(value)


def _describe(error: msgspec.ValidationError, kind: type, data: Any) -> str:
    """msgspec's message, which ends in " - at `$.path`", in plain English."""
    fault, path = re.fullmatch(r"(.*?)(?: - at `\$([\w.\[\]]*)`)?", str(error), re.S).groups("")
    place, keys = path.lstrip("."), re.findall(r"\w+", path)
    inside = f"{place}." if place else ""
    types = _types_at(inspect.type_info(kind), data, keys)
    for key in keys:
        data = data[int(key) if isinstance(data, (list, tuple)) else key]
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", fault):
        return f"missing key {inside}{missing[1]}"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", fault, re.S):
        known = _keys_of(types[0])
        known = f"; known are {', '.join(known)}" if len(known) <= NB_KNOWN else ""
        return f"{place}{': ' if place else ''}unknown key {unknown[1]!r}{known}"
    if choices := [str(value) for x in types for value in getattr(x, "values", ())]:
        return f"{place} must be {' or '.join(choices)}, not {data!r}"
    if expected := re.fullmatch(r"Expected `([^`]+)`(.*?)(?:, got .*)?", fault):
        names = " or ".join(NAMES.get(name, name) for name in expected[1].split(" | "))
        return f"{place} must be {names}{expected[2]}, not {data!r}"
    return f"{inside}{fault}" if error.__cause__ else f"{place}: {fault}"  # cause: __post_init__


def _types_at(node: inspect.Type, value: Any, keys: list[str]) -> list[inspect.Type]:
    """Types that the schema allows at a place; a tag in ``value`` selects its struct."""
    if isinstance(node, inspect.UnionType):
        return [found for kind in node.types for found in _types_at(kind, value, keys)]
    if isinstance(node, inspect.StructType) and node.tag_field:
        if keys == [node.tag_field]:
            return [inspect.LiteralType((node.tag,))]
        if not isinstance(value, dict) or value.get(node.tag_field) != node.tag:
            return []
    if not keys:
        return [node]
    key, *rest = keys
    if isinstance(node, inspect.VarTupleType):
        return _types_at(node.item_type, value[int(key)], rest)
    kinds = {field.encode_name: field.type for field in getattr(node, "fields", ())}
    return _types_at(kinds[key], value[key], rest) if key in kinds else []


def _keys_of(struct: inspect.StructType) -> list[str]:
    tag = [struct.tag_field] if struct.tag_field else []
    return tag + [field.encode_name for field in struct.fields]
