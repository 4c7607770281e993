"""The benchmarks that reports come from: what they plan, how they count, and that the reports say what was measured."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from benchmarks import blind_rates
from benchmarks.early_measure import EVERY_S, announced
from benchmarks.quality import planned
from benchmarks.quality_cases import CASES, ROOT, SEEDS, VARIANTS
from benchmarks.reinforce import reinforce
from benchmarks.technical_report import REPORT, RESULTS, TABLES, TEMPLATE, main_table, read, rendered
from calibrate.sessions import ScoredSession, content_of
from loggpt_stream.daemon.early import SETTLE_S
from loggpt_stream.history.labels import Labels, read_labels
from loggpt_stream.model.drift_mode import DriftMode
from testing.tiny_bundle import nova34, tiny_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from loggpt_stream.model.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, early_share=0.1)


@pytest.fixture(scope="module")
def labels() -> Labels:
    return read_labels(str(CASES["nova34"].labels))


def test_the_technical_report_is_what_make_report_writes_of_the_committed_results() -> None:
    assert rendered(TEMPLATE.read_text(), read(RESULTS)) == REPORT.read_text()


def test_every_table_is_in_the_technical_report_and_every_figure_of_it_is_there() -> None:
    template = TEMPLATE.read_text()
    assert set(re.findall(r"\{\{([a-z_]+)\}\}", template)) == set(TABLES)
    figures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", template)
    assert figures
    assert all((REPORT.parent / figure).is_file() for figure in figures)


def test_committed_results_are_of_all_cases_variants_and_seeds() -> None:
    fits = {(case, variant): {fit["seed"] for fit in found} for (case, variant), found in read(RESULTS).items()}
    assert set(fits) == {(case, each.name) for each in VARIANTS.values() for case in each.cases}
    assert all(fits[case, "default"] == set(SEEDS) for case in CASES)


def test_quality_plans_the_main_table_first_and_leaves_out_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, case in CASES.items():
        monkeypatch.setitem(CASES, name, case if name == "nova34" else replace(case, log=tmp_path / "absent"))
    fits = list(planned(argparse.Namespace(case=None, variant=None, seed=None)))
    assert [(fit.variant, fit.seed) for fit in fits[:3]] == [("default", seed) for seed in SEEDS]
    assert {fit.case for fit in fits} == {"nova34"}
    assert len(set(fits)) == len(fits) > 20
    assert "run: skipped" in capsys.readouterr().out


def scored(bundle: Bundle, labels: Labels, share: float) -> tuple[list[ScoredSession], dict[str, Any]]:
    """Return nova34's instances, and what is announced of them at thresholds that this share of them passes."""
    assert bundle.calibration is not None
    scorer = bundle.scorer(torch.device("cpu"))
    sessions = [each for each in nova34().sessions if each.kind == "instance" and labels.row(each) and not each.late]
    members = [
        ScoredSession(session, score.statistics, labels.anomalous(session, "failed"), 0, 0.0, b"")
        for session, score in zip(sessions, scorer.score(sessions), strict=True)
    ]
    calibration = bundle.calibration.kinds["instance"]
    assert calibration.early is not None
    scores = [calibration.early.score(each.statistics) for each in members]
    early = replace(calibration.early, threshold=float(np.quantile(scores, 1 - share)) if share < 1 else -1.0)
    calibration = replace(calibration, early=early)
    return members, announced(members, scorer, calibration, labels, DriftMode.OFF)


def test_an_alert_with_the_first_line_is_before_the_injection_and_no_anticipation(
    bundle: Bundle, labels: Labels
) -> None:
    members, found = scored(bundle, labels, 1.0)
    first_looks = {
        each.session.key: each.session.lines[0].time_s + SETTLE_S + EVERY_S for each in members if each.truth
    }
    rows = {key: labels.rows[key] for key in first_looks}
    later = sum(bool(row["failed_at"]) and float(row["injected_at"]) > first_looks[key] for key, row in rows.items())
    assert found["before_injection"] >= later > 30
    assert found["false_alarms"] == found["normal"] == sum(not each.truth for each in members)


def test_what_never_passes_is_never_announced(bundle: Bundle, labels: Labels) -> None:
    members, found = scored(bundle, labels, 0.0)
    assert found["failures"] == sum(bool(each.truth) for each in members)
    assert (found["announced"], found["in_time"], found["before_injection"], found["false_alarms"]) == (0, 0, 0, 0)


def test_lead_and_delay_add_up_to_the_largest_possible_lead(bundle: Bundle, labels: Labels) -> None:
    _, found = scored(bundle, labels, 0.2)
    leads, largest, delays = (np.array(found[name]) for name in ("leads_s", "largest_s", "delays_s"))
    assert 0 < len(leads) == found["in_time"] <= found["announced"] == len(delays)
    assert (leads > 0).all()
    assert (leads < largest).all()
    assert set(np.round(largest - leads, 3)) <= set(np.round(delays, 3))


def test_reinforcing_rewards_what_was_foreseen_and_teaches_a_bad_guesser_away_from_the_truth(bundle: Bundle) -> None:
    sessions = [each for each in nova34().sessions[:10] if each.kind == "instance"]
    before, same, away = (bundle.scorer(torch.device("cpu")) for _ in range(3))
    reinforce(same, sessions, learning_rate=0.0, seed=1)
    reinforce(away, sessions, learning_rate=1e-3, seed=1)
    losses, kept, moved = (
        np.mean([score.statistics["mean_line_loss"] for score in each.score(sessions)]) for each in (before, same, away)
    )
    assert kept == pytest.approx(losses)
    assert moved > losses + 0.01


def test_thresholds_without_labels_are_judged_by_sessions_that_they_were_not_made_of(
    bundle: Bundle, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [replace(each, content=content_of(each.session)) for each in scored(bundle, labels, 0.0)[0]]
    normal = [each for each in members if each.truth is False]
    failed = [each for each in members if each.truth]
    by_role = {"held": normal[:40], "val": [*normal[40:60], *failed[:10]], "failures": failed[10:30]}
    drawn: list[set[int]] = []
    judge = blind_rates._judged

    def watched(taken: Any, judged: Any, request: Any) -> tuple[float, float]:
        assert not {each.session.fingerprint() for each in taken} & {each.session.fingerprint() for each in judged}
        assert all(each.truth is None for each in taken)
        assert sum(bool(each.truth) for each in judged) == 10
        drawn.append({each.session.fingerprint() for each in taken})
        return judge(taken, judged, request)

    monkeypatch.setattr(blind_rates, "_judged", watched)
    monkeypatch.setattr(blind_rates, "_DRAWS", 2)
    found = blind_rates._draws(by_role, seed=1)
    assert {share for _, share, _ in found} == {0.0, 0.025, 0.05, 0.1}
    assert all(len(rows) == 2 and all(0 <= value <= 1 for row in rows for value in row) for rows in found.values())
    assert {len(taken) for taken in drawn} == {39, 40, 41, 43}
    # With failures among the sessions, what takes all of them as normal finds fewer.
    shipped, conformal = (np.mean([row[1] for row in found[0.05, 0.1, way]]) for way in ("as shipped", "conformal"))
    assert shipped > conformal


def test_the_readme_shows_the_main_table_of_the_committed_results() -> None:
    assert "\n".join(main_table(read(RESULTS))) in (ROOT / "README.md").read_text()
