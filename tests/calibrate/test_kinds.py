"""Scored sessions → calibrations, on made-up statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from calibrate.kinds import Wishes, calibrate_kinds
from calibrate.sessions import ScoredSession
from loggpt_stream.errors import UserError
from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.statistics import COMBINATIONS, COMBINED, STATISTICS, clipped

if TYPE_CHECKING:
    from collections.abc import Sequence


def scored(
    number: int,
    losses: Sequence[float],
    end: float,
    truth: bool | None,
    *,
    kind: str = "instance",
    content: str | None = None,
    absent: float = 0.0,
) -> ScoredSession:
    statistics = {
        "mean_line_loss": float(clipped(np.array(losses)).mean()),
        "max_line_loss": max(losses),
        "end_loss": end,
        "digest_loss": float(clipped(np.array(losses)).mean()),
        "digest_end_loss": end,
        "absent_lines": absent,
        "unseen_lines": 0.0,
        "untimely_line": 0.0,
    }
    line = Line(float(number), number, f"INFO nova {number}", "", "raw")
    session = Session(f"key-{number}", kind, float(number), float(number), number, lines=[line])
    name = (content or f"content {number}").encode()
    return ScoredSession(session, statistics, truth, 0, max(losses), name)


def population(
    normal: int = 60, anomalous: int = 20, shift: float = 8.0, kind: str = "instance", known: bool = True
) -> list[ScoredSession]:
    """Return sessions whose statistics are those of random losses; anomalous ones lose `shift` nats more."""
    generator = np.random.default_rng(11)
    found = []
    for i in range(normal + anomalous):
        bad = i >= normal
        losses = generator.gamma(2.0, size=12) + shift * bad
        found.append(
            scored(i, losses.tolist(), float(generator.gamma(1.0)) + shift * bad, bad if known else None, kind=kind)
        )
    return found


@pytest.mark.parametrize(("sessions", "contamination"), [(10, 0.0), (30, 0.0), (30, 0.15), (80, 0.15)])
def test_the_promised_rate_holds_for_few_sessions_under_scales_fitted_to_them(
    sessions: int, contamination: float
) -> None:
    generator = np.random.default_rng(3)

    def draw(count: int) -> list[ScoredSession]:
        return [
            scored(i, generator.lognormal(0, 0.5, 8).tolist(), float(generator.lognormal(0, 1)), None)
            for i in range(count)
        ]

    seen = []
    promised = 0.0
    wishes = Wishes(false_alarm_rate=0.1, contamination=contamination)
    for _ in range(min(100, 2000 // sessions)):
        (kind,) = calibrate_kinds(draw(sessions), wishes, labelled=False).kinds
        assert kind.calibration.basis == ("robust_tail" if contamination else "conformal")
        later = [kind.calibration.score(each.statistics) for each in draw(40)]
        seen.append(float(np.mean(np.array(later) > kind.calibration.threshold)))
        promised = kind.calibration.false_alarm_rate
    error = np.std(seen) / np.sqrt(len(seen))
    assert 0 < np.mean(seen) < promised + 2 * error + (0.02 if contamination else 0)  # a model is near, no bound


def test_by_default_a_tenth_of_failures_nobody_labelled_does_not_hide_itself() -> None:
    members = population(normal=180, anomalous=20, known=False)
    (robust,) = calibrate_kinds(members, Wishes(), labelled=False).kinds
    assert (robust.calibration.basis, robust.calibration.false_alarm_rate) == ("robust_tail", 0.01)
    flagged = robust.scores_N > robust.calibration.threshold
    assert flagged[180:].all()
    assert flagged[:180].mean() < 0.05
    (warning,) = robust.warnings
    assert f"{flagged.sum()} of 200 calibration sessions score above the threshold for 0.01" in warning
    # Taken for normal they are the tail, and all but the very highest lie below the threshold.
    (believed,) = calibrate_kinds(members, Wishes(contamination=0), labelled=False).kinds
    assert believed.calibration.basis == "conformal"
    assert (believed.scores_N > believed.calibration.threshold).sum() <= 2


def test_a_rate_that_is_coarser_than_what_may_be_failures_needs_no_model() -> None:
    members = population(normal=60, anomalous=0, known=False)
    (kind,) = calibrate_kinds(members, Wishes(false_alarm_rate=0.2), labelled=False).kinds
    assert kind.calibration.basis == "conformal"


def test_where_nothing_tells_how_far_the_tail_reaches_the_ranks_decide() -> None:
    # Nine in ten sessions read alike, as requests do.
    alike = [scored(i, [2.0, 1.0], 1.0, None, content="the same") for i in range(90)]
    others = [scored(100 + i, [3.0 + i / 3, 1.0], 1.0 + i / 7, None) for i in range(10)]
    (kind,) = calibrate_kinds([*alike, *others], Wishes(false_alarm_rate=0.05), labelled=False).kinds
    assert kind.calibration.basis == "conformal"
    assert (kind.scores_N > kind.calibration.threshold).sum() == 4  # of 100: (4 + 1) / 101 is at most 0.05


def test_labels_give_the_threshold_with_the_highest_f1_and_the_observed_rate() -> None:
    (kind,) = calibrate_kinds(population(), Wishes(), labelled=True).kinds
    assert kind.calibration.basis == "labels_f1"
    assert kind.calibration.combination == COMBINED
    assert kind.calibration.anomalous_sessions == 20
    assert len(kind.calibration.normal_scores) == 60
    above = sum(score > kind.calibration.threshold for score in kind.calibration.normal_scores)
    assert kind.calibration.false_alarm_rate == (1 + above) / 61
    assert set(kind.calibration.scales) == set(COMBINATIONS[COMBINED])
    # Every combination, and every statistic that was computed, has its figures.
    assert {each.name for each in kind.figures} == {*COMBINATIONS, *STATISTICS} - {"top_k_misses"}


def told_by_absent_lines(by: float) -> list[ScoredSession]:
    """Return sessions that absent lines tell apart, and in which the model's losses are noise."""
    generator = np.random.default_rng(4)
    return [
        scored(
            i,
            generator.gamma(2.0, size=6).tolist(),
            float(generator.gamma(1.0)),
            i >= 60,
            absent=float(generator.random()) + by * (i >= 60),
        )
        for i in range(80)
    ]


def test_another_combination_decides_only_where_it_is_clearly_better() -> None:
    (kind,) = calibrate_kinds(told_by_absent_lines(1.0), Wishes(), labelled=True).kinds
    figures = {each.name: each for each in kind.figures}
    assert figures["lines"].average_precision == 1.0
    assert (figures[COMBINED].average_precision or 0) < 0.99
    assert kind.calibration.combination == "lines"
    assert set(kind.calibration.scales) == set(COMBINATIONS["lines"])
    # Both find all there is to find: then the one that draws on everything decides.
    (kind,) = calibrate_kinds(told_by_absent_lines(400.0), Wishes(), labelled=True).kinds
    assert {each.name: each for each in kind.figures}[COMBINED].average_precision == 1.0
    assert kind.calibration.combination == COMBINED


def test_a_single_statistic_is_shown_and_does_not_decide() -> None:
    # Only the end tells, and by little: in the combinations the other statistics' noise drowns it.
    generator = np.random.default_rng(4)
    told = [
        scored(i, generator.gamma(2.0, size=6).tolist(), float(generator.random()) * 0.5 + (i >= 60) * 0.5, i >= 60)
        for i in range(80)
    ]
    (kind,) = calibrate_kinds(told, Wishes(), labelled=True).kinds
    figures = {each.name: each for each in kind.figures}
    assert figures["end_loss"].average_precision == 1.0
    assert (figures[COMBINED].average_precision or 0) < 0.99
    assert kind.calibration.combination in COMBINATIONS


def test_a_combination_whose_score_many_sessions_share_cannot_decide() -> None:
    # Absent lines separate perfectly, but all normal sessions lack the same.
    members = [
        replace(each, statistics={**each.statistics, "absent_lines": 1.0 + (each.truth is True)})
        for each in told_by_absent_lines(0.0)
    ]
    (kind,) = calibrate_kinds(members, Wishes(), labelled=True).kinds
    figures = {each.name: each for each in kind.figures}
    assert (figures["lines"].average_precision or 0) > (figures[COMBINED].average_precision or 0) + 0.01
    assert kind.calibration.combination != "lines"


def test_costs_decide_where_they_are_stated() -> None:
    members = population(shift=1.0)
    dear_miss = calibrate_kinds(members, Wishes(cost_miss=20.0), labelled=True).kinds[0]
    dear_alarm = calibrate_kinds(members, Wishes(cost_false_alarm=20.0), labelled=True).kinds[0]
    assert dear_miss.calibration.basis == dear_alarm.calibration.basis == "labels_cost"
    assert dear_miss.calibration.threshold < dear_alarm.calibration.threshold


def test_a_kind_without_labels_is_not_judged_unless_a_rate_is_stated() -> None:
    members = [*population(), *population(normal=40, anomalous=0, kind="request", known=False)]
    outcome = calibrate_kinds(members, Wishes(), labelled=True)
    assert [each.kind for each in outcome.kinds] == ["instance"]
    assert "none of its sessions has a label" in outcome.unjudged["request"]
    assert "--false-alarm-rate" in outcome.unjudged["request"]
    outcome = calibrate_kinds(members, Wishes(false_alarm_rate=0.1), labelled=True)
    assert [each.kind for each in outcome.kinds] == ["instance", "request"]
    assert outcome.kinds[0].calibration.basis == "labels_f1"
    assert outcome.kinds[1].calibration.basis == "robust_tail"
    assert any("from the false-alarm rate alone" in each for each in outcome.kinds[1].warnings)


def test_a_kind_with_labels_of_one_class_is_not_judged() -> None:
    members = [*population(), *population(normal=40, anomalous=0, kind="request")]
    outcome = calibrate_kinds(members, Wishes(), labelled=True)
    assert "all of one class" in outcome.unjudged["request"]


@pytest.mark.parametrize(("contamination", "basis"), [(0.0, "conformal"), (0.15, "robust_tail")])
def test_sessions_labelled_anomalous_never_enter_a_threshold_by_rate(contamination: float, basis: str) -> None:
    normal = population(normal=40, anomalous=0, known=False)
    bad = [scored(1000 + i, [500.0], 50.0, truth=True) for i in range(5)]
    wishes = Wishes(false_alarm_rate=0.05, contamination=contamination)
    (kind,) = calibrate_kinds([*normal, *bad], wishes, labelled=True).kinds
    assert len(kind.calibration.normal_scores) == 40
    assert kind.calibration.basis == basis


def test_a_rate_finer_than_the_sessions_guarantee_is_a_models_and_it_says_so() -> None:
    members = population(normal=50, anomalous=0, known=False)
    (kind,) = calibrate_kinds(members, Wishes(contamination=0), labelled=False).kinds
    assert (kind.calibration.basis, kind.calibration.false_alarm_rate) == ("tail_model", 0.01)
    assert kind.calibration.threshold >= max(kind.calibration.normal_scores)
    assert any(
        "50 sessions guarantee no finer rate than 1/(50+1) = 0.01961; asked 0.01" in each for each in kind.warnings
    )
    assert any("one unnoticed failure among them hides all" in each for each in kind.warnings)


def test_a_rate_that_is_supported_is_not_warned_of() -> None:
    wishes = Wishes(false_alarm_rate=0.1, contamination=0)
    (kind,) = calibrate_kinds(population(normal=59, anomalous=0, known=False), wishes, labelled=False).kinds
    assert kind.calibration.false_alarm_rate == pytest.approx(0.1)
    assert kind.calibration.basis == "conformal"
    assert kind.warnings == []
    assert sum(score > kind.calibration.threshold for score in kind.calibration.normal_scores) == 5


def test_a_clean_history_is_not_warned_of_by_default() -> None:
    (kind,) = calibrate_kinds(population(normal=300, anomalous=0, known=False), Wishes(), labelled=False).kinds
    assert kind.calibration.basis == "robust_tail"
    assert kind.warnings == []
    assert (kind.scores_N > kind.calibration.threshold).mean() < 0.03


def test_fewer_than_ten_normal_sessions_of_every_kind_are_refused() -> None:
    members = population(normal=9, anomalous=0, known=False)
    with pytest.raises(UserError, match=r"instance: 9 normal sessions; at least 10 are needed"):
        calibrate_kinds(members, Wishes(), labelled=False)
    assert calibrate_kinds(population(normal=10, anomalous=0, known=False), Wishes(), labelled=False).kinds


def test_sessions_that_all_read_alike_are_not_judged() -> None:
    alike = [scored(i, [2.0], 1.0, None, kind="request", content="the same") for i in range(50)]
    outcome = calibrate_kinds([*population(), *alike], Wishes(false_alarm_rate=0.05), labelled=True)
    assert "read alike" in outcome.unjudged["request"]


def test_one_score_for_many_different_sessions_is_refused_with_the_score_and_examples() -> None:
    members = population(normal=57, anomalous=0, known=False)
    same = [scored(500 + i, [3.0, 4.0], 1.0, None) for i in range(4)]
    with pytest.raises(UserError, match=r"4 of 61 sessions that read differently .* key-500 .* key-501") as caught:
        calibrate_kinds([*members, *same], Wishes(), labelled=False)
    assert "nats" in str(caught.value)
    # The same many sessions with one text are one session, often seen: nothing is wrong with that.
    alike = [scored(500 + i, [3.0, 4.0], 1.0, None, content="the same") for i in range(4)]
    assert calibrate_kinds([*members, *alike], Wishes(), labelled=False).kinds


def test_scores_that_are_not_finite_are_refused() -> None:
    members = [*population(normal=30, anomalous=0, known=False), scored(99, [float("inf")], 1.0, None)]
    with pytest.raises(UserError, match="not finite"):
        calibrate_kinds(members, Wishes(), labelled=False)


def test_a_threshold_that_would_flag_every_normal_session_is_refused() -> None:
    # The old pathology: recall 1.0 and a fine F1, with no true negative.
    # Three of four sessions are labelled anomalous, and the scores say the opposite: flagging all is the best F1.
    generator = np.random.default_rng(9)
    members = [
        scored(i, (generator.gamma(2.0, size=6) + 4.0 * (i % 4 == 0)).tolist(), 1.0 + i / 99 + (i % 4 == 0), i % 4 != 0)
        for i in range(80)
    ]
    with pytest.raises(UserError, match="flags all 20 normal sessions"):
        calibrate_kinds(members, Wishes(), labelled=True)
