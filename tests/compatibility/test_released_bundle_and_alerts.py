"""A bundle of 0.1.0 loads, a newer one is refused by name; alerts of 0.1.0 fit today's schema, which only grows."""

from __future__ import annotations

import copy
import lzma
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import orjson
import pytest

from loggpt_stream.alerts.alert import schema
from loggpt_stream.errors import UserError
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.model.manifest import MANIFEST
from testing.make_golden_bundle import golden_bundle
from testing.make_golden_state import GOLDEN

if TYPE_CHECKING:
    from pathlib import Path

RELEASED_SCHEMA = orjson.loads((GOLDEN / "alert.schema-0.1.0.json").read_bytes())
# Where the released schema was wrong: 0.1.0 too wrote alerts without it, where the broker took no large ones.
OPTIONAL_ALL_ALONG = ("top_lines", "token_losses")
# What may change without a change of what is valid.
REMARKS = frozenset({"title", "description", "examples", "$comment"})


def narrowed(old: Any, new: Any, where: str = "alert") -> list[str]:
    """Return what a reader of `old` alerts may not rely on in `new` ones, or the other way round, a sentence each.

    Fields may be added where they are optional, and values where there is a choice. All else stays as it is.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} is {new!r} and no longer {old!r}"]
    told = []
    if set(old.get("required", ())) != set(new.get("required", ())):
        told.append(f"{where} requires {new.get('required')} and no longer {old.get('required')}")
    told += [f"{where} no longer has the value {value!r}" for value in old.get("enum", ()) if value not in new["enum"]]
    for name in ("properties", "$defs"):
        before, now = old.get(name, {}), new.get(name, {})
        told += [f"{where}.{field} is gone" for field in before if field not in now]
        told += [
            line for field in before if field in now for line in narrowed(before[field], now[field], f"{where}.{field}")
        ]
    compared = {"required", "enum", "properties", "$defs"} | REMARKS
    for keyword in sorted((set(old) | set(new)) - compared):
        if keyword not in old or keyword not in new:
            told.append(f"{where}: {keyword} was added or removed")
        else:
            told += narrowed(old[keyword], new[keyword], f"{where} {keyword}")
    if ("enum" in old) != ("enum" in new):
        told.append(f"{where}: enum was added or removed")
    return told


def test_a_bundle_of_0_1_0_loads(tmp_path: Path) -> None:
    bundle = load_bundle(golden_bundle("0.1.0", tmp_path))
    assert bundle.calibration is not None
    assert set(bundle.calibration.kinds) == {"instance", "request"}
    assert bundle.preprocessing.session_rules.idle_gap_s == 60.0


def test_a_bundle_of_a_newer_format_is_refused_with_the_version_that_wrote_it(tmp_path: Path) -> None:
    path = golden_bundle("0.1.0", tmp_path)
    manifest = orjson.loads((path / MANIFEST).read_bytes())
    manifest["format"] += 1
    manifest["versions"]["loggpt-stream"] = "0.9.1"
    (path / MANIFEST).write_bytes(orjson.dumps(manifest))
    with pytest.raises(UserError, match=r"format 3, which loggpt-stream 0\.9\.1 wrote.*Run 0\.9\.1 or newer"):
        load_bundle(path)


def test_alerts_of_0_1_0_are_valid_today() -> None:
    alerts = [
        orjson.loads(line) for line in lzma.decompress((GOLDEN / "alerts-0.1.0.jsonl.xz").read_bytes()).splitlines()
    ]
    assert {alert["loggpt"]["stage"] for alert in alerts} == {"early", "final"}
    for alert in alerts:
        jsonschema.validate(alert, RELEASED_SCHEMA)
        jsonschema.validate(alert, schema())


def test_the_alert_schema_has_a_version_and_only_grows_within_it() -> None:
    """Where it must change otherwise, the number in its $id is raised, and both schemas are tested from then on."""
    assert re.fullmatch(r"urn:loggpt-stream:alert:\d+", schema()["$id"])
    assert schema()["$id"] == RELEASED_SCHEMA["$id"]
    lines, field = OPTIONAL_ALL_ALONG
    released = copy.deepcopy(RELEASED_SCHEMA)
    released["properties"]["loggpt"]["properties"][lines]["items"]["required"].remove(field)
    assert narrowed(released, schema()) == []


def test_an_optional_field_and_one_more_value_are_growth() -> None:
    new = copy.deepcopy(RELEASED_SCHEMA)
    new["properties"]["loggpt"]["properties"]["one_more"] = {"type": "string"}
    stage = new["properties"]["loggpt"]["properties"]["stage"]
    stage["enum"] = [*stage["enum"], "later"]
    assert narrowed(RELEASED_SCHEMA, new) == []


@pytest.mark.parametrize(
    "what", ["field gone", "type", "no longer required", "newly required", "value gone", "shorter"]
)
def test_anything_else_is_a_new_version(what: str) -> None:
    new = copy.deepcopy(RELEASED_SCHEMA)
    event = new["properties"]["event"]
    if what == "field gone":
        del event["properties"]["reference"]
    elif what == "type":
        event["properties"]["risk_score"]["type"] = "string"
    elif what == "no longer required":
        event["required"].remove("reason")
    elif what == "newly required":
        event["required"].append("reference")
    elif what == "value gone":
        new["properties"]["loggpt"]["properties"]["stage"]["enum"].pop()
    else:
        event["properties"]["severity"]["maximum"] = 50
    assert narrowed(RELEASED_SCHEMA, new)
