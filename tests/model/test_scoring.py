"""Sessions to scores with a real GPT: the same alone and in any company."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loggpt_stream.errors import UserError
from loggpt_stream.model.gpt import ModelShape, choose_device, new_model
from loggpt_stream.model.losses import token_losses
from loggpt_stream.model.scoring import AbandonedError, Scorer
from loggpt_stream.model.statistics import CLIP_NATS, Scale, combine, fit_scales, session_statistics
from tests.tiny_bundle import nova34, untrained_parts


@dataclass(frozen=True)
class Said:
    kind: str
    texts: list[str]


def scorer(batch_tokens: int = 4096, device: str = "cpu") -> Scorer:
    torch.manual_seed(3)
    tokenizer, _ = untrained_parts()
    shape = ModelShape(layers=2, width=32, heads=2, context_tokens=64)
    model = new_model(shape, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    return Scorer(model, tokenizer, torch.device(device), batch_tokens=batch_tokens)


SCORER = scorer()
SESSIONS = nova34().sessions[:40]


def test_batched_and_alone_give_equal_losses() -> None:
    together = SCORER.score(SESSIONS)
    for session, score in zip(SESSIONS, together, strict=True):
        (alone,) = SCORER.score([session])
        assert score.line_losses_L == pytest.approx(alone.line_losses_L, abs=1e-5)
        assert score.end_loss == pytest.approx(alone.end_loss, abs=1e-5)


def test_the_size_of_batches_changes_nothing() -> None:
    for a, b in zip(SCORER.score(SESSIONS), scorer(batch_tokens=64).score(SESSIONS), strict=True):
        assert a.line_losses_L == pytest.approx(b.line_losses_L, abs=1e-5)


def test_there_is_a_loss_for_each_line_and_it_is_the_sum_over_its_tokens() -> None:
    for session, score in zip(SESSIONS, SCORER.score(SESSIONS), strict=True):
        assert len(score.line_losses_L) == len(session.lines) == len(score.token_losses)
        for text, tokens, loss in zip(session.texts, score.token_losses, score.line_losses_L, strict=True):
            assert len(tokens) == len(SCORER.tokenizer.encode(text))
            assert loss == pytest.approx(tokens.sum())


def test_a_line_is_not_touched_by_what_follows_it() -> None:
    lines = SESSIONS[0].texts[:6]
    (short,) = SCORER.score([Said("instance", lines)])
    (longer,) = SCORER.score([Said("instance", [*lines, "ERROR something else entirely"])])
    assert longer.line_losses_L[:6] == pytest.approx(short.line_losses_L, abs=1e-5)
    assert longer.end_loss != pytest.approx(short.end_loss, abs=1e-3)


def test_what_is_cut_off_a_line_does_not_count() -> None:
    kept = SCORER.tokenizer.max_line_tokens
    long = "z" * 400
    assert len(SCORER.tokenizer.encode(long)) == kept
    (one,), (other,) = SCORER.score([Said("instance", [long])]), SCORER.score([Said("instance", [long + "y" * 99])])
    assert one.line_losses_L == pytest.approx(other.line_losses_L, abs=1e-6)


def test_padding_is_never_seen() -> None:
    before = SCORER.score(SESSIONS)
    SCORER.tokenizer.pad_id, kept = SCORER.tokenizer.end_id, SCORER.tokenizer.pad_id
    try:
        after = SCORER.score(SESSIONS)
    finally:
        SCORER.tokenizer.pad_id = kept
    for a, b in zip(before, after, strict=True):
        assert a.line_losses_L == pytest.approx(b.line_losses_L, abs=1e-6)


def test_losses_agree_with_transformers_own_loss() -> None:
    said = Said("instance", SESSIONS[0].texts[:4])
    (window,) = SCORER.windows(said)
    ids = torch.tensor([window.ids_T])
    with torch.inference_mode():
        output = SCORER.model(ids, labels=ids)
    ours = token_losses(output.logits, ids)[0]
    assert float(ours.sum()) / (ids.shape[1] - 1) == pytest.approx(float(output.loss), abs=1e-5)
    (score,) = SCORER.score([said])
    for index, loss in enumerate(score.line_losses_L):
        mine = [float(ours[t]) for t, whose in enumerate(window.line_T) if whose == index]
        assert loss == pytest.approx(sum(mine), abs=1e-5)
    assert score.end_loss == pytest.approx(float(ours[-1]), abs=1e-5)


def test_a_session_of_many_windows_has_every_line_scored_and_its_tail_scores_no_line_twice() -> None:
    lines = [text for session in SESSIONS for text in session.texts][:300]
    (score,) = SCORER.score([Said("instance", lines)])
    assert len(SCORER.windows(Said("instance", lines))) > 5
    assert len(score.line_losses_L) == len(lines)
    assert np.isfinite(score.line_losses_L).all()
    # The end sees the tail alone: another beginning does not move it.
    (other,) = SCORER.score([Said("instance", ["INFO x wholly different", *lines[40:]])])
    assert other.end_loss == pytest.approx(score.end_loss, abs=1e-5)


def test_the_kind_of_a_session_is_seen() -> None:
    lines = SESSIONS[0].texts[:3]
    one, other = SCORER.score([Said("instance", lines), Said("request", lines)])
    assert one.line_losses_L != pytest.approx(other.line_losses_L, abs=1e-6)


def test_no_sessions_have_no_scores() -> None:
    assert SCORER.score([]) == []


@given(
    lengths=st.lists(st.integers(1, 64), max_size=40),
    batch_tokens=st.integers(1, 300),
)
def test_batches_hold_every_window_once_and_no_more_tokens_than_allowed(lengths: list[int], batch_tokens: int) -> None:
    sizes = scorer_with(batch_tokens)
    batches = list(sizes._batches(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= batch_tokens


def scorer_with(batch_tokens: int) -> Scorer:
    return Scorer(SCORER.model, SCORER.tokenizer, SCORER.device, batch_tokens=batch_tokens)


def test_damaged_weights_are_said_and_not_scored() -> None:
    damaged = scorer()
    with torch.no_grad():
        damaged.model.transformer.wpe.weight[3] = float("nan")
    with pytest.raises(FloatingPointError, match="damaged"):
        damaged.score(SESSIONS)


def test_scoring_that_nobody_waits_for_ends_at_the_next_batch() -> None:
    abandoned = scorer()
    abandoned.abandoned = True
    with pytest.raises(AbandonedError):
        abandoned.score(nova34().sessions[:3])


@pytest.mark.gpu
def test_cuda_gives_the_same_losses() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    for a, b in zip(SCORER.score(SESSIONS), scorer(device="cuda").score(SESSIONS), strict=True):
        assert a.line_losses_L == pytest.approx(b.line_losses_L, abs=1e-2)


def test_devices_that_are_not_there_are_errors_that_say_so() -> None:
    assert choose_device("auto").type in ("cpu", "cuda")
    for name in ("abacus", "mps", "meta", "cpu:x", ""):
        with pytest.raises(UserError, match="not known"):
            choose_device(name)
    assert choose_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        with pytest.raises(UserError, match="counted from 0"):
            choose_device("cuda:77")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no usable CUDA"):
            choose_device("cuda")


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50), st.floats(0, 50), st.integers(0, 49), st.floats(0.1, 100))
def test_a_more_surprising_line_never_lowers_a_statistic(
    losses: list[float], end: float, where: int, more: float
) -> None:
    before = session_statistics(np.array(losses), end)
    losses[where % len(losses)] += more
    after = session_statistics(np.array(losses), end)
    assert all(after[name] >= before[name] - 1e-9 for name in before)


def test_two_sessions_of_very_strange_lines_are_still_told_apart() -> None:
    one, other = (session_statistics(np.array([CLIP_NATS + x] * 6), 0.0) for x in (100.0, 101.0))
    assert one["top5_line_loss"] < other["top5_line_loss"]
    assert one["mean_line_loss"] < other["mean_line_loss"]


@settings(max_examples=50)
@given(st.lists(st.floats(-5, 100), min_size=1, max_size=30), st.floats(-10, 1e6), st.floats(0, 1e6))
def test_surprise_is_finite_and_never_falls(values: list[float], value: float, more: float) -> None:
    scale = Scale.fit(np.array(values))
    assert np.isfinite(scale.surprise(value))
    assert scale.surprise(value + more) >= scale.surprise(value)


@pytest.mark.parametrize(
    "values", [[3.0], [3.0] * 40, [0.0] * 5, [-2.0] * 3], ids=["one", "equal", "zeros", "negative"]
)
def test_a_scale_of_values_without_spread_still_tells_more_from_less(values: list[float]) -> None:
    scale = Scale.fit(np.array(values))
    usual = scale.surprise(values[0])
    assert usual == pytest.approx(math.log(2), abs=1e-6)  # half of all normal sessions reach the median
    assert scale.surprise(values[0] + 1.0) > usual + 10
    assert scale.surprise(values[0] - 1.0) <= usual


def test_the_combination_adds_the_surprises() -> None:
    normal = [session_statistics(np.array([1.0, 2.0, x]), x / 10) for x in (1.0, 2.0, 3.0, 4.0)]
    scales = fit_scales(normal)
    odd = session_statistics(np.array([1.0, 2.0, 30.0]), 8.0)
    assert combine(odd, scales) == pytest.approx(sum(scale.surprise(odd[name]) for name, scale in scales.items()))
    assert combine(odd, scales) > max(combine(each, scales) for each in normal)
