"""The page of alert fields: read from the JSON Schema of the alert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from loggpt_stream.alerts.alert import schema
from loggpt_stream.record_headers import ALERT_HEADERS, SCORE_FIELDS
from scripts.reference.markdown import code, codes, page, prose, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BOUNDS: Final = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
_SCHEMA: Final = "loggpt_stream/alerts/alert.schema.json"


@dataclass(frozen=True, slots=True)
class AlertField:
    """A field of the alert.

    path: `[]` stands for each item of a list. always: it is in every alert that has its parent.
    """

    path: str
    kind: str
    always: bool
    description: str


def alerts_page() -> str:
    """Return the page of alert fields."""
    document = schema()
    rows = [
        (code(each.path), each.kind + ("" if each.always else "\noptional"), prose(each.description))
        for each in fields_of(document)
    ]
    return page(
        "Alert fields",
        "Every field and header of an alert, and every field of a score record.",
        f"An alert is JSON in Elastic Common Schema, with a namespace `loggpt` of its own. The JSON Schema is "
        f"`{_SCHEMA}` (`{document['$id']}`). Read the topic with `isolation.level=read_committed`.",
        table(("Field", "Type", "Meaning"), rows),
        "## Headers of an alert\n\nCloudEvents 1.0, Kafka binding, binary mode. The record's key is the session's.\n\n"
        + table(("Header", "What it says"), [(code(name), prose(said)) for name, said in ALERT_HEADERS.items()]),
        "## Score records\n\nWith `score_topic` set, every session that closed has one record there, alert or not. "
        "Its key is the session's.\n\n"
        + table(("Field", "Meaning"), [(code(name), prose(said)) for name, said in SCORE_FIELDS.items()]),
    )


def fields_of(document: Mapping[str, Any]) -> Iterator[AlertField]:
    """Yield the fields that a JSON Schema describes, each before those in it."""
    yield from _fields(document, document, "")


def _fields(document: Mapping[str, Any], node: Mapping[str, Any], before: str) -> Iterator[AlertField]:
    for name, stated in node.get("properties", {}).items():
        inner = {**_referred(document, stated), **stated}
        path = f"{before}{name}"
        yield AlertField(path, _kind(document, inner), name in node.get("required", ()), stated.get("description", ""))
        yield from _fields(document, inner, f"{path}.")
        items = inner.get("items", {})
        yield from _fields(document, {**_referred(document, items), **items}, f"{path}[].")


def _referred(document: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in node:
        return {}
    found: Mapping[str, Any] = document
    for step in node["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def _kind(document: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Return what values a field may have, in words."""
    if "const" in node:
        constant = node["const"]
        return f"list: {codes(constant)}" if isinstance(constant, list) else code(constant)
    if "enum" in node:
        return codes("null" if value is None else value for value in node["enum"])
    if "anyOf" in node:
        return " or ".join(_kind(document, {**_referred(document, each), **each}) for each in node["anyOf"])
    if node.get("$ref", "").endswith("/time"):
        return "time"
    if node["type"] == "array":
        items = node.get("items", {})
        most = f", at most {node['maxItems']}" if "maxItems" in node else ""
        return f"list of {_kind(document, {**_referred(document, items), **items})}{most}"
    bounds = [f"{sign} {node[name]}" for name, sign in _BOUNDS.items() if name in node]
    return " ".join((str(node["type"]), *bounds))
