"""Scored sessions → calibrations, on made-up statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from calibrate.per_kind import CalibrationRequest, calibrate_kinds
from calibrate.sessions import ScoredSession
from loggpt_stream.errors import UserError
from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.statistics import COMBINED, clipped

if TYPE_CHECKING:
    from collections.abc import Sequence


def statistics(losses: Sequence[float], end: float) -> dict[str, float]:
    """Return statistics as scoring would name them, the end standing for the line set's and for what is absent."""
    losses_L = np.array(losses)
    return {
        "mean_line_loss": float(clipped(losses_L).mean()),
        "max_line_loss": float(losses_L.max()),
        "digest_loss": float(np.sort(clipped(losses_L))[-5:].mean()),
        "digest_end_loss": end,
    }


def scored(
    number: int,
    losses: Sequence[float],
    end: float,
    truth: bool | None,
    *,
    kind: str = "instance",
    content: str | None = None,
    lines: float | None = None,
) -> ScoredSession:
    line = Line(float(number), number, f"INFO nova {number}", "", "raw")
    session = Session(f"key-{number}", kind, float(number), float(number), number, lines=[line])
    name = (content or f"content {number}").encode()
    more = {} if lines is None else {"absent_lines": lines}
    return ScoredSession(session, statistics(losses, end) | more, truth, 0, max(losses), name)


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


@pytest.mark.parametrize("sessions", [10, 30])
def test_the_promised_rate_holds_for_few_sessions_under_scales_fitted_to_them(sessions: int) -> None:
    generator = np.random.default_rng(3)

    def draw(count: int) -> list[ScoredSession]:
        return [
            scored(i, generator.lognormal(0, 0.5, 8).tolist(), float(generator.lognormal(0, 1)), None)
            for i in range(count)
        ]

    seen = []
    promised = 0.0
    for _ in range(150):
        request = CalibrationRequest(false_alarm_rate=0.1, contamination=0.0)
        (kind,) = calibrate_kinds(draw(sessions), request, labelled=False).kinds
        later = [kind.calibration.score(each.statistics) for each in draw(40)]
        seen.append(float(np.mean(np.array(later) > kind.calibration.threshold)))
        promised = kind.calibration.false_alarm_rate
    error = np.std(seen) / np.sqrt(len(seen))
    assert 0 < np.mean(seen) < promised + 2 * error


def test_labels_give_the_threshold_with_the_highest_f1_and_the_observed_rate() -> None:
    (kind,) = calibrate_kinds(population(), CalibrationRequest(), labelled=True).kinds
    assert kind.calibration.basis == "labels_f1"
    assert kind.calibration.combination == COMBINED
    assert kind.calibration.anomalous_sessions == 20
    assert len(kind.calibration.normal_scores) == 60
    above = sum(score > kind.calibration.threshold for score in kind.calibration.normal_scores)
    assert kind.calibration.false_alarm_rate == (1 + above) / 61
    assert {each.name for each in kind.figures} > {COMBINED, "language_model", "digest_end_loss"}


@pytest.mark.slow
def test_no_single_labelled_session_moves_the_threshold_far() -> None:
    members = population(shift=1.0)

    def threshold(of: list[ScoredSession]) -> float:
        return calibrate_kinds(of, CalibrationRequest(), labelled=True).kinds[0].calibration.threshold

    whole = threshold(members)
    assert [threshold(members[:i] + members[i + 1 :]) for i in range(80)] == pytest.approx([whole] * 80, rel=0.1)


def test_another_combination_decides_only_where_it_is_clearly_better() -> None:
    # Only what is absent tells, and by little: in the whole the noise of the losses drowns it.
    generator = np.random.default_rng(4)

    def draw(tells: bool) -> list[ScoredSession]:
        return [
            scored(
                i,
                generator.gamma(2.0, size=6).tolist(),
                float(generator.gamma(1.0)),
                i >= 60,
                lines=float(generator.random()) * 0.5 + (i >= 60) * tells * 0.5,
            )
            for i in range(80)
        ]

    (kind,) = calibrate_kinds(draw(tells=True), CalibrationRequest(), labelled=True).kinds
    assert kind.calibration.combination == "lines"
    assert set(kind.calibration.scales) == {"absent_lines"}
    assert next(each for each in kind.figures if each.name == "lines").average_precision == 1.0


def test_a_single_statistic_is_shown_and_never_chosen() -> None:
    # The maximum alone separates perfectly; half drowned by noise, no combination does.
    generator = np.random.default_rng(2)

    def losses(i: int) -> list[float]:
        return [30.0 + i / 99 + (i >= 60) * 2, *(generator.gamma(9.0, size=6) + (i >= 60) * 3)]

    members = [scored(i, losses(i), float(generator.gamma(1.0)), i >= 60) for i in range(80)]
    (kind,) = calibrate_kinds(members, CalibrationRequest(), labelled=True).kinds
    figures = {each.name: each for each in kind.figures}
    assert (figures["max_line_loss"].average_precision or 0) > (figures[COMBINED].average_precision or 0) + 0.01
    assert kind.calibration.combination == COMBINED


def test_a_combination_that_many_sessions_share_cannot_decide() -> None:
    # What is absent separates perfectly, but all normal sessions lack the same.
    generator = np.random.default_rng(2)
    members = [
        scored(i, generator.gamma(2.0, size=6).tolist(), float(generator.gamma(1.0)), i >= 60, lines=float(i >= 60))
        for i in range(80)
    ]
    (kind,) = calibrate_kinds(members, CalibrationRequest(), labelled=True).kinds
    figures = {each.name: each for each in kind.figures}
    assert (figures["lines"].average_precision or 0) > (figures[COMBINED].average_precision or 0) + 0.01
    assert kind.calibration.combination != "lines"


def test_costs_decide_where_they_are_stated() -> None:
    members = population(shift=1.0)
    dear_miss = calibrate_kinds(members, CalibrationRequest(cost_miss=20.0), labelled=True).kinds[0]
    dear_alarm = calibrate_kinds(members, CalibrationRequest(cost_false_alarm=20.0), labelled=True).kinds[0]
    assert dear_miss.calibration.basis == dear_alarm.calibration.basis == "labels_cost"
    assert dear_miss.calibration.threshold < dear_alarm.calibration.threshold


def test_a_kind_without_labels_is_not_judged_unless_a_rate_is_stated() -> None:
    members = [*population(), *population(normal=40, anomalous=0, kind="request", known=False)]
    outcome = calibrate_kinds(members, CalibrationRequest(), labelled=True)
    assert [each.kind for each in outcome.kinds] == ["instance"]
    assert "none of its sessions has a label" in outcome.unjudged["request"]
    assert "--false-alarm-rate" in outcome.unjudged["request"]
    outcome = calibrate_kinds(members, CalibrationRequest(false_alarm_rate=0.1), labelled=True)
    assert [each.kind for each in outcome.kinds] == ["instance", "request"]
    assert outcome.kinds[0].calibration.basis == "labels_f1"
    assert outcome.kinds[1].calibration.basis == "conformal"  # a rate of .1 is what the sample bears, failures or not


def test_a_kind_with_labels_of_one_class_is_not_judged() -> None:
    members = [*population(), *population(normal=40, anomalous=0, kind="request")]
    outcome = calibrate_kinds(members, CalibrationRequest(), labelled=True)
    assert "all of one class" in outcome.unjudged["request"]


def test_sessions_labelled_anomalous_never_enter_a_conformal_threshold() -> None:
    normal = population(normal=40, anomalous=0, known=False)
    bad = [scored(1000 + i, [500.0], 50.0, truth=True) for i in range(5)]
    request = CalibrationRequest(false_alarm_rate=0.05, contamination=0.0)
    (kind,) = calibrate_kinds([*normal, *bad], request, labelled=True).kinds
    assert len(kind.calibration.normal_scores) == 40
    assert kind.calibration.basis == "conformal"


def test_a_rate_finer_than_the_sample_supports_is_a_models_promise_and_that_is_said() -> None:
    request = CalibrationRequest(contamination=0.0)
    (kind,) = calibrate_kinds(population(normal=50, anomalous=0, known=False), request, labelled=False).kinds
    assert kind.calibration.basis == "tail_model"
    assert kind.calibration.false_alarm_rate == 0.01
    assert kind.calibration.threshold > max(kind.calibration.normal_scores)
    assert any(
        "50 sessions guarantee no finer rate than 1/(50+1) = 0.01961; asked 0.01" in each for each in kind.warnings
    )


@pytest.mark.parametrize("failures", [1, 3, 5])
def test_failures_among_unlabelled_sessions_neither_hide_themselves_nor_raise_the_threshold_much(failures: int) -> None:
    normal = population(normal=60, anomalous=0, known=False)
    failed = [scored(500 + i, [40.0 + i] * 12, 12.0 + i, None) for i in range(failures)]
    request = CalibrationRequest(false_alarm_rate=0.02)
    (clean,) = calibrate_kinds(normal, request, labelled=False).kinds
    (kind,) = calibrate_kinds([*normal, *failed], request, labelled=False).kinds
    assert kind.calibration.basis == "robust_tail"
    assert kind.calibration.threshold < 2 * clean.calibration.threshold
    assert (kind.scores_N[60:] > kind.calibration.threshold).all()
    (naive,) = calibrate_kinds([*normal, *failed], CalibrationRequest(0.02, contamination=0.0), labelled=False).kinds
    assert naive.calibration.threshold > kind.calibration.threshold
    warned = any("If they are failures" in warning for warning in kind.warnings)
    assert warned == (failures > 1)


def test_a_rate_that_is_supported_is_not_warned_of() -> None:
    request = CalibrationRequest(false_alarm_rate=0.1, contamination=0.0)
    (kind,) = calibrate_kinds(population(normal=59, anomalous=0, known=False), request, labelled=False).kinds
    assert kind.calibration.false_alarm_rate == pytest.approx(0.1)
    assert kind.warnings == []
    assert sum(score > kind.calibration.threshold for score in kind.calibration.normal_scores) == 5


def test_fewer_than_ten_normal_sessions_of_every_kind_are_refused() -> None:
    members = population(normal=9, anomalous=0, known=False)
    with pytest.raises(UserError, match=r"instance: 9 normal sessions; at least 10 are needed"):
        calibrate_kinds(members, CalibrationRequest(), labelled=False)
    assert calibrate_kinds(population(normal=10, anomalous=0, known=False), CalibrationRequest(), labelled=False).kinds


def test_sessions_that_all_read_alike_are_not_judged() -> None:
    alike = [scored(i, [2.0], 1.0, None, kind="request", content="the same") for i in range(50)]
    outcome = calibrate_kinds([*population(), *alike], CalibrationRequest(false_alarm_rate=0.05), labelled=True)
    assert "read alike" in outcome.unjudged["request"]


def test_one_score_for_many_different_sessions_is_refused_with_the_score_and_examples() -> None:
    members = population(normal=57, anomalous=0, known=False)
    same = [scored(500 + i, [3.0, 4.0], 1.0, None) for i in range(4)]
    with pytest.raises(UserError, match=r"4 of 61 sessions that read differently .* key-500 .* key-501") as caught:
        calibrate_kinds([*members, *same], CalibrationRequest(), labelled=False)
    assert "nats" in str(caught.value)
    # The same many sessions with one text are one session, often seen: nothing is wrong with that.
    alike = [scored(500 + i, [3.0, 4.0], 1.0, None, content="the same") for i in range(4)]
    assert calibrate_kinds([*members, *alike], CalibrationRequest(), labelled=False).kinds


def test_scores_that_are_not_finite_are_refused() -> None:
    members = [*population(normal=30, anomalous=0, known=False), scored(99, [float("inf")], 1.0, None)]
    with pytest.raises(UserError, match="not finite"):
        calibrate_kinds(members, CalibrationRequest(), labelled=False)


def test_a_threshold_that_would_flag_every_normal_session_is_refused() -> None:
    # The old pathology: recall 1.0 and a fine F1, with no true negative.
    # Three of four sessions are labelled anomalous, and the scores say the opposite: flagging all is the best F1.
    generator = np.random.default_rng(9)
    members = [
        scored(i, (generator.gamma(2.0, size=6) + 4.0 * (i % 4 == 0)).tolist(), 1.0 + i / 99 + (i % 4 == 0), i % 4 != 0)
        for i in range(80)
    ]
    with pytest.raises(UserError, match="flags all 20 normal sessions"):
        calibrate_kinds(members, CalibrationRequest(), labelled=True)
