"""State topics of every released format restore to what the version that wrote them restores, and go back to it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from loggpt_stream.daemon.state_formats import STATE_FORMATS as DAEMON_FORMATS
from loggpt_stream.kafka.changelog import Changelog, packed, unpacked
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.route.state_formats import STATE_FORMATS as ROUTER_FORMATS
from testing.make_golden_state import OWNERS, PROGRAMS, code_here, read_expected, read_pairs

if TYPE_CHECKING:
    from loggpt_stream.kafka.changelog import StateFormats

FORMATS = {"daemon": DAEMON_FORMATS, "router": ROUTER_FORMATS}
VERSIONS = ("0.1.0", "0.2.0")

pytestmark = pytest.mark.parametrize("program", list(PROGRAMS))


def restored(pairs: list[tuple[bytes, bytes | None]], program: str) -> dict[str, Any]:
    return PROGRAMS[program][1](code_here(), pairs)


def stored_frames(program: str) -> list[dict[str, Any]]:
    """Return the newest changes of the 0.1.0 topic as they were written, without conversion."""
    raw: StateFormats = type(FORMATS[program])(from_format_1=dict, to_format_1=dict)
    return Changelog(OWNERS[program], raw).read(read_pairs("0.1.0", program))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_released_state_topic_restores_to_what_its_own_version_restored(version: str, program: str) -> None:
    assert restored(read_pairs(version, program), program) == read_expected(version, program)


def test_the_golden_topics_hold_all_that_state_can_hold(program: str) -> None:
    """What is not in there is not tested: each kind of session, each flag, links, tombstones, parents of each sort."""
    expected = read_expected("0.1.0", program)
    parents = expected["parents"]
    assert {in_frames for *_, in_frames, _, _, _ in parents} == {True, False}
    assert {newest for *_, newest in parents} == {True, False}
    assert any(session_id for *_, session_id, _, _ in parents)
    assert "" in dict(expected["links"]).values()
    parts = [value.partition(b"\n")[0] for _, value in read_pairs("0.1.0", program) if value and b"{" in value]
    assert any(orjson.loads(part)["generation"] > 1 for part in parts)
    if program == "daemon":
        assert any(orjson.loads(part)["parts"] > 1 for part in parts)
        sessions = [*expected["open"], *expected["pending"]]
        assert {each["kind"] for each in sessions} == {"explicit", "instance", "request", "window"}
        for name in ("first_index", "part", "late", "hosts", "project_id", "traceparent", "ending", "announced_s"):
            assert any(each[name] for each in sessions), name
        assert {each["outdated"] for each in sessions} == {True, False}
        lines = [line for each in sessions for line in each["lines"]]
        assert any(tail for *_, tail, _ in lines)
        assert any(rest for *_, rest in lines)
        assert expected["tombstones"]
        assert {"gone"} < {place if isinstance(place, str) else "line" for _, _, _, _, place, *_ in parents}


def test_a_change_of_0_1_0_goes_to_format_2_and_comes_back_byte_for_byte(program: str) -> None:
    formats = FORMATS[program]
    for change in stored_frames(program):
        there = orjson.loads(orjson.dumps(formats.from_format_1(change)))
        # A change, as against a snapshot, has no tombstones in 0.1.0, and a snapshot no judged ones.
        back = {name: value for name, value in formats.to_format_1(there).items() if name in change}
        assert orjson.dumps(back, option=orjson.OPT_SORT_KEYS) == orjson.dumps(change, option=orjson.OPT_SORT_KEYS)


def test_fields_and_tables_that_a_newer_version_added_are_ignored(program: str) -> None:
    def with_more(change: dict[str, Any]) -> dict[str, Any]:
        more = {name: value | {"a_new_field": {"0": 1}} for name, value in change.items() if isinstance(value, dict)}
        return change | more | {"a_new_table": {"rows": 3}, "a_new_value": 5}

    changed = []
    for key, value in read_pairs("0.2.0", program):
        place, _, frame = (value or b"").partition(b"\n")
        if b'"parts":1}' in place:
            newer = with_more(orjson.loads(unpacked(frame)))
            value = place.replace(b"}", b',"a_new_field":1}') + b"\n" + packed(newer)  # noqa: PLW2901 - the same record
        changed.append((key, value))
    assert changed != read_pairs("0.2.0", program)
    assert restored(changed, program) == read_expected("0.2.0", program)


def test_rules_and_masks_of_0_1_0_have_the_fingerprint_that_they_had(program: str) -> None:
    """Else every session that is open at an upgrade would count as gathered under other rules, and go unjudged.

    It is of the `repr` of both: a field or a class that gets another name changes it.
    """
    del program
    found = hashlib.sha256(repr((SessionRules(), DEFAULT_RULES)).encode()).hexdigest()[:16]
    assert found == "ad8a2fac95369709"
