"""Replay with early alerts: each before the final one of its session, with the lines that the daemon would have had."""

from __future__ import annotations

import lzma
from typing import TYPE_CHECKING, Any

import jsonschema
import orjson
import pytest

from loggpt_stream.alerts.alert import schema
from loggpt_stream.commands.replay import COMMAND
from testing.tiny_bundle import NOVA34, tiny_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from loggpt_stream.model.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=0.5, early_share=0.3)


def replayed(bundle: Bundle, folder: Path, *flags: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the alerts and the score records of the first lines of the recording."""
    log, out, scores = (folder / name for name in ("golden.log", "alerts.jsonl", "scores.jsonl"))
    with lzma.open(NOVA34) as lines:
        log.write_bytes(b"".join(line for line, _ in zip(lines, range(4_000), strict=False)))
    assert (
        COMMAND.main(["--bundle", str(bundle.path), "--out", str(out), "--scores", str(scores), *flags, str(log)]) == 0
    )
    alerts, scored = ([orjson.loads(line) for line in path.read_bytes().splitlines()] for path in (out, scores))
    return alerts, scored


def test_early_alerts_come_before_the_final_ones_that_refer_to_them(bundle: Bundle, tmp_path: Path) -> None:
    alerts, scored = replayed(bundle, tmp_path, "--early")
    early = {each["event"]["id"]: each for each in alerts if each["loggpt"]["stage"] == "early"}
    final = [each for each in alerts if each["loggpt"]["stage"] == "final"]
    assert len(early) > 5
    for each in alerts:
        jsonschema.validate(each, schema())
    told = [each["loggpt"]["early"]["id"] for each in final if "early" in each["loggpt"]]
    assert len(told) > 5
    assert set(told) <= set(early)
    at = {each["event"]["id"]: place for place, each in enumerate(alerts)}
    for each in final:
        if "early" in each["loggpt"]:
            first = early[each["loggpt"]["early"]["id"]]
            assert at[first["event"]["id"]] < at[each["event"]["id"]]
            assert first["loggpt"]["session"]["lines"] <= each["loggpt"]["session"]["lines"]
            assert first["event"]["created"] <= each["loggpt"]["session"]["closed_at"]
    assert {each["early"]["id"] for each in scored if each["early"]} == set(early)
    # Without its last line a session was still below the threshold; with it, it is above.
    assert all(each["loggpt"]["score"] > each["loggpt"]["threshold"] for each in early.values())


def test_without_the_flag_there_is_none_and_the_final_ones_are_the_same(bundle: Bundle, tmp_path: Path) -> None:
    with_it, _ = replayed(bundle, tmp_path, "--early")
    without, scored = replayed(bundle, tmp_path)
    final = [each["event"]["id"] for each in with_it if each["loggpt"]["stage"] == "final"]
    assert [each["event"]["id"] for each in without] == final
    assert all("early" not in each["loggpt"] for each in without)
    assert all(each["early"] is None for each in scored)
