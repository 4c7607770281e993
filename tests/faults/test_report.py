"""Results are kept, and told as they are."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from faults.report import Result, curves, markdown, now, versions
from faults.run import size
from faults.scenarios import DAEMON_POINTS, SCENARIOS, Size
from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


def result(scenario: str, findings: dict[str, list[str]], samples: list[dict[str, float]] | None = None) -> Result:
    return Result(
        scenario=scenario,
        description="Does something.",
        seed=7,
        command=f"python -m faults.run --only {scenario} --seed 7",
        started="2026-11-23T04:07:34Z",
        seconds=90.0,
        versions=versions(),
        faults={"kill -9": 12, "never came": 0},
        sessions=1_234,
        alerts=1_200,
        lines=56_789,
        findings=findings,
        samples=samples or [],
    )


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = result("kill9", {"scores twice": ["a", "b"]})
    assert Result.read(one.write(tmp_path)) == one
    assert not one.ok


def test_the_report_has_a_row_a_scenario_with_what_was_found_and_the_command_that_repeats_it() -> None:
    bad = result("storm", {"scores twice": ["instance x", "instance y"], "scores missing": []})
    text = markdown([bad, result("kill9", {"scores twice": []})])
    assert "| kill9 | 2026-11-23 | kill -9: 12 | 56,789 | 1,234 | 1,200 | 1.5 | none |" in text
    assert "| 2 scores twice |" in text
    assert "- 2 scores twice, the first: `instance x`" in text
    assert "    python -m faults.run --only storm --seed 7" in text
    assert "Apache Kafka" in text
    assert text.index("| kill9") < text.index("| storm")


def test_early_alerts_are_told_where_there_were_any() -> None:
    assert "| 1,200 and 34 early | 1.5 |" in markdown([replace(result("kill9", {}), early_alerts=34)])


def test_the_soaks_samples_are_a_short_table_and_curves(tmp_path: Path) -> None:
    samples = [
        {"at_s": 5.0 * number, "daemons": 2, "rss_mb": 400.0 + number, "lag_records": 3.0} for number in range(1000)
    ]
    soak = result("soak", {}, samples)
    text = markdown([soak])
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert "| at_s | daemons | rss_mb | lag_records |" in rows
    assert len(rows) < 30
    assert f"]({curves(soak, tmp_path).name})" in text
    assert curves(soak, tmp_path).read_bytes().startswith(b"\x89PNG")


def test_the_report_says_how_memory_goes_on_and_what_the_lag_comes_down_to_after_each_fault() -> None:
    # Ten minutes: memory rises by 60 MB an hour, 900 records are behind after each fault, and in one minute 7 remain.
    samples = [
        {"at_s": float(at_s), "daemons": 2, "rss_mb": 400 + at_s / 60, "lag_records": lag}
        for at_s in range(0, 600, 5)
        for lag in (900 if at_s % 60 < 20 else 7 if at_s // 60 == 8 else 0,)
    ]
    text = markdown([result("soak", {}, samples)])
    assert "changed by +60 MB an hour" in text
    assert "At most 900 records were behind" in text
    assert "in 9 of 10 minutes the lag came down to nothing, in each to 7 records or less." in text


def test_every_scenario_says_what_it_does_and_a_quick_run_is_small() -> None:
    for name, scenario in SCENARIOS.items():
        assert (scenario.__doc__ or "").strip().endswith(".")
        options = argparse.Namespace(quick=True, rounds=None, minutes=None, rate=300.0, points=DAEMON_POINTS)
        assert size(options, name).rounds <= 4
        assert size(argparse.Namespace(**{**vars(options), "quick": False}), name).rounds >= 10


def test_points_are_chosen_by_a_pattern_and_none_is_a_mistake() -> None:
    daemons = Size(1, 1.0).failpoints()
    assert {point.split(".")[0] for point in daemons} == {"loggpt_stream"}
    clients = Size(1, 1.0, points=r"aiokafka\.producer\.sender").failpoints()
    assert {point.split(":")[0] for point in clients} == {"aiokafka.producer.sender"}
    with pytest.raises(UserError, match="--points nowhere: fits none of"):
        Size(1, 1.0, points="nowhere").failpoints()


def test_times_are_in_utc_to_the_second() -> None:
    assert len(now()) == len("2026-11-23T04:07:34Z")
