"""Results are kept, and told as they are."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from faults.report import Result, markdown, now, versions
from faults.run import size
from faults.scenarios import SCENARIOS

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


def test_the_soaks_samples_are_a_short_table() -> None:
    samples = [{"at_s": 5.0 * number, "rss_mb": 400.0 + number} for number in range(1000)]
    rows = [line for line in markdown([result("soak", {}, samples)]).splitlines() if line.startswith("| ")]
    assert "| at_s | rss_mb |" in rows
    assert len(rows) < 30


def test_every_scenario_says_what_it_does_and_a_quick_run_is_small() -> None:
    for name, scenario in SCENARIOS.items():
        assert (scenario.__doc__ or "").strip().endswith(".")
        options = argparse.Namespace(quick=True, rounds=None, minutes=None, rate=300.0)
        assert size(options, name).rounds <= 4
        assert size(argparse.Namespace(**{**vars(options), "quick": False}), name).rounds >= 10


def test_times_are_in_utc_to_the_second() -> None:
    assert len(now()) == len("2026-11-23T04:07:34Z")
