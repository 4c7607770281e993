"""The early score of an open session: it never falls, reading on gives what reading all gives, and where it alarms."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loggpt_stream.model.calibration import Calibration, EarlyCalibration
from loggpt_stream.model.early import START, EarlyProgress, first_alarm, new_unseen, step
from loggpt_stream.model.gpt import new_model
from loggpt_stream.model.scoring import Scorer
from loggpt_stream.model.sequence import Passes
from loggpt_stream.model.shape import ModelShape
from loggpt_stream.model.statistics import EARLY, Scale, fit_scales, slack
from testing.tiny_bundle import Said, judged_early_by, nova34, untrained_parts
from trainer.material import count_lines

SESSIONS = nova34().sessions[:40]
LINE_FREQUENCIES = count_lines(SESSIONS)
KNOWN = sorted({text for session in SESSIONS if session.kind == "instance" for text in session.texts})
UNKNOWN = [f"ERROR nova.compute.manager never seen, number {n}" for n in range(6)]


def scorer(passes: Passes) -> Scorer:
    torch.manual_seed(3)
    tokenizer, _ = untrained_parts()
    # So narrow a context cuts blocks in the middle too.
    shape = ModelShape(layers=2, width=32, heads=2, context_tokens=64)
    model = new_model(shape, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    return Scorer(model, tokenizer, torch.device("cpu"), line_frequencies=LINE_FREQUENCIES, passes=passes)


SCORERS = {
    "isolate_unseen": scorer(Passes()),
    "short blocks": scorer(Passes(block_lines=3)),
    "no isolate_unseen": scorer(Passes(isolate_unseen=False, block_lines=5)),
}
SCALES = fit_scales([score.statistics for score in SCORERS["isolate_unseen"].score(SESSIONS)], EARLY)
EARLY_CALIBRATION = EarlyCalibration(
    threshold=4.0, basis="conformal", false_alarm_rate=0.01, scales=SCALES, normal_scores=(0.5, 1.0, 1.5)
)

some_lines = st.lists(st.sampled_from(KNOWN) | st.sampled_from(UNKNOWN), min_size=1, max_size=40)


def whole(by: Scorer, lines: list[str]) -> dict[str, float]:
    (score,) = by.score([Said("instance", lines)])
    return {name: score.statistics[name] for name in EARLY}


@settings(max_examples=40, deadline=None)
@given(lines=some_lines, cuts=st.lists(st.integers(1, 39), max_size=4), which=st.sampled_from(sorted(SCORERS)))
def test_the_early_score_of_the_first_lines_is_never_above_that_of_more_lines(
    lines: list[str], cuts: list[int], which: str
) -> None:
    by = SCORERS[which]
    scores = [EARLY_CALIBRATION.score(whole(by, lines[:cut])) for cut in sorted({*cuts, len(lines)})]
    for shorter, longer in pairwise(scores):
        assert shorter <= longer + slack(longer)


@settings(max_examples=40, deadline=None)
@given(lines=some_lines, cuts=st.lists(st.integers(1, 39), max_size=4), which=st.sampled_from(sorted(SCORERS)))
def test_reading_on_in_steps_gives_what_reading_all_at_once_gives(
    lines: list[str], cuts: list[int], which: str
) -> None:
    by = SCORERS[which]
    progress = START
    ends = sorted({cut for cut in cuts if cut < len(lines)} | {len(lines)})
    for end in ends:
        progress = step(by, "instance", progress, lines[progress.lines : end]).taken(by)
        assert progress.lines == end
        assert progress.statistics == pytest.approx(whole(by, lines[:end]), abs=1e-4)


def test_lines_read_one_by_one_cost_what_they_cost_in_their_blocks() -> None:
    by = SCORERS["isolate_unseen"]
    lines = [text for session in SESSIONS if session.kind == "instance" for text in session.texts][:60]
    (score,) = by.score([Said("instance", lines)])
    assert len({round(loss, 3) for loss in score.line_losses_L.tolist()}) > 30  # what came before is seen
    progress = START
    for index, line in enumerate(lines):
        # Of this line alone: what came before does not hide it.
        progress = step(by, "instance", replace(progress, max_line_loss=0.0), [line]).taken(by)
        since = 16 * (index // 16)
        assert progress.max_line_loss == pytest.approx(score.line_losses_L[since : index + 1].max(), abs=1e-4)


def test_the_next_line_of_a_long_session_costs_no_more_than_a_block() -> None:
    by = SCORERS["isolate_unseen"]
    progress = step(by, "instance", START, KNOWN * 20).taken(by)
    further = step(by, "instance", progress, [KNOWN[0]])
    assert progress.lines > 1000
    assert 0 < further.tokens <= (by.passes.block_lines + 1) * (by.tokenizer.max_line_tokens + 1)


def test_a_step_without_lines_changes_nothing() -> None:
    by = SCORERS["isolate_unseen"]
    progress = step(by, "instance", START, KNOWN[:20]).taken(by)
    assert step(by, "instance", progress, []).taken(by) == progress
    assert step(by, "instance", START, []).taken(by) == EarlyProgress()


def test_a_line_never_seen_counts_once_however_often_it_comes() -> None:
    by = SCORERS["isolate_unseen"]
    progress = step(by, "instance", START, [UNKNOWN[0], KNOWN[0], UNKNOWN[0]]).taken(by)
    progress = step(by, "instance", progress, [UNKNOWN[0], UNKNOWN[1]]).taken(by)
    assert progress.statistics["unseen_lines"] == 2


@settings(deadline=None)
@given(
    losses=st.lists(st.floats(0, 200), min_size=1, max_size=30),
    unseen=st.lists(st.booleans(), min_size=30, max_size=30),
    threshold=st.floats(0, 40),
)
def test_the_first_alarm_is_the_first_line_whose_prefix_passes_the_threshold(
    losses: list[float], unseen: list[bool], threshold: float
) -> None:
    early = EarlyCalibration(
        threshold=threshold, basis="conformal", false_alarm_rate=0.01, scales=SCALES, normal_scores=(1.0,)
    )
    scores = [
        early.score({"max_line_loss": max(losses[: n + 1]), "unseen_lines": float(sum(unseen[: n + 1]))})
        for n in range(len(losses))
    ]
    expected = next((n for n, score in enumerate(scores) if score > threshold), None)
    assert first_alarm(np.array(losses), np.array(unseen[: len(losses)]), early) == expected


def test_the_first_alarm_of_a_finished_session_is_where_reading_on_alarms() -> None:
    by = SCORERS["isolate_unseen"]
    lines = [*KNOWN[:10], UNKNOWN[0], KNOWN[1], UNKNOWN[1], UNKNOWN[2], *KNOWN[:5]]
    (score,) = by.score([Said("instance", lines)])
    unseen_L = new_unseen(lines, LINE_FREQUENCIES["instance"])
    assert np.flatnonzero(unseen_L).tolist() == [10, 12, 13]
    for threshold in (0.0, 5.0, 9.0, 1e9):
        early = EarlyCalibration(
            threshold=threshold, basis="conformal", false_alarm_rate=0.01, scales=SCALES, normal_scores=(1.0,)
        )
        progress, at = START, None
        for index, line in enumerate(lines):
            progress = step(by, "instance", progress, [line]).taken(by)
            if at is None and early.score(progress.statistics) > threshold:
                at = index
        assert first_alarm(score.line_losses_L, unseen_L, early) == at


@settings(deadline=None)
@given(value=st.floats(0, 1e4), more=st.floats(0, 1e4), name=st.sampled_from(EARLY))
def test_the_early_score_never_falls_where_a_statistic_rises(value: float, more: float, name: str) -> None:
    usual = {"max_line_loss": 5.0, "unseen_lines": 0.0}
    low, high = (EARLY_CALIBRATION.score(usual | {name: each}) for each in (value, value + more))
    assert low <= high


def test_a_verdict_of_an_open_session_says_by_what_it_was_judged() -> None:
    scales = {"max_line_loss": Scale(0.0, math.log1p(5.0), 0.5), "unseen_lines": Scale(0.0, 0.0, 0.2)}
    early = EarlyCalibration(
        threshold=3.0, basis="conformal", false_alarm_rate=0.01, scales=scales, normal_scores=(0.5, 1.0, 1.5)
    )
    verdict = early.judge({"max_line_loss": 5.0, "unseen_lines": 1.0})
    assert verdict.anomalous
    assert verdict.combination == "early"
    assert verdict.score == pytest.approx(sum(verdict.surprises.values()))
    assert verdict.p_value == 0.25
    assert not early.judge({"max_line_loss": 5.0, "unseen_lines": 0.0}).anomalous


def test_a_calibration_keeps_its_early_part_and_one_without_stays_without() -> None:
    with_it, without = judged_early_by(EARLY_CALIBRATION), judged_early_by(None)
    assert Calibration.from_json(with_it.to_json()) == with_it
    assert Calibration.from_json(without.to_json()) == without
    assert with_it.id != without.id
    older = {"instance": {name: each for name, each in without.to_json()["instance"].items() if name != "early"}}
    assert Calibration.from_json(older) == without


def test_what_is_kept_of_an_open_session_is_just_the_statistics_that_never_fall() -> None:
    assert set(START.statistics) == set(EARLY)
