"""Sessions to scores with a real GPT: the same alone and in any company."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loggpt_stream.errors import UserError
from loggpt_stream.model import scoring
from loggpt_stream.model.gpt import choose_device, new_model
from loggpt_stream.model.losses import token_losses
from loggpt_stream.model.scoring import AbandonedError, Scorer
from loggpt_stream.model.sequence import Passes
from loggpt_stream.model.shape import ModelShape
from loggpt_stream.model.statistics import (
    CAP_NATS,
    CLIP_NATS,
    TOP_K,
    CountScale,
    Scale,
    clipped,
    combine,
    fit_scales,
    scales_from_json,
    scales_to_json,
    surprises,
)
from testing.tiny_bundle import Said, nova34, untrained_parts
from trainer.material import count_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loggpt_stream.model.session_score import SessionScore

SESSIONS = nova34().sessions[:40]
LINE_FREQUENCIES = count_lines(SESSIONS)
ALL_PASSES = Passes(tail_lines=256)


def scorer(
    batch_tokens: int = 4096,
    device: str = "cpu",
    passes: Passes = ALL_PASSES,
    *,
    ranks: bool = False,
) -> Scorer:
    torch.manual_seed(3)
    tokenizer, _ = untrained_parts()
    shape = ModelShape(layers=2, width=32, heads=2, context_tokens=64)
    model = new_model(shape, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    return Scorer(
        model,
        tokenizer,
        torch.device(device),
        line_frequencies=LINE_FREQUENCIES,
        passes=passes,
        batch_tokens=batch_tokens,
        ranks=ranks,
    )


SCORER = scorer()


def test_batched_and_alone_give_equal_losses() -> None:
    together = SCORER.score(SESSIONS)
    reader = scorer()
    for session, score in zip(SESSIONS, together, strict=True):
        reader._memo.clear()  # what is remembered was read in company
        (alone,) = reader.score([session])
        assert score.line_losses_L == pytest.approx(alone.line_losses_L, abs=1e-5)
        assert score.statistics == pytest.approx(alone.statistics, abs=1e-4)


def test_the_size_of_batches_changes_nothing() -> None:
    for a, b in zip(SCORER.score(SESSIONS), scorer(batch_tokens=64).score(SESSIONS), strict=True):
        assert a.line_losses_L == pytest.approx(b.line_losses_L, abs=1e-5)


def test_there_is_a_loss_for_each_line_and_it_is_the_sum_over_its_tokens() -> None:
    for session, score in zip(SESSIONS, SCORER.score(SESSIONS), strict=True):
        assert len(score.line_losses_L) == len(session.lines) == len(score.token_losses)
        assert score.statistics["session_lines"] == len(session.lines)
        for text, tokens, loss in zip(session.texts, score.token_losses, score.line_losses_L, strict=True):
            assert len(tokens) == len(SCORER.tokenizer.encode(text))
            assert loss == pytest.approx(tokens.sum())


def test_a_line_is_not_touched_by_what_follows_it() -> None:
    lines = SESSIONS[0].texts[:6]
    (short,) = SCORER.score([Said("instance", lines)])
    (longer,) = SCORER.score([Said("instance", [*lines, "ERROR something else entirely"])])
    assert longer.line_losses_L[:6] == pytest.approx(short.line_losses_L, abs=1e-5)
    assert longer.statistics["digest_end_loss"] != pytest.approx(short.statistics["digest_end_loss"], abs=1e-3)


def test_what_is_cut_off_a_line_does_not_count() -> None:
    kept = SCORER.tokenizer.max_line_tokens
    long = "z" * 400
    assert len(SCORER.tokenizer.encode(long)) == kept
    (one,), (other,) = SCORER.score([Said("instance", [long])]), SCORER.score([Said("instance", [long + "y" * 99])])
    assert one.line_losses_L == pytest.approx(other.line_losses_L, abs=1e-6)


def test_padding_is_never_seen() -> None:
    other = scorer()
    other.tokenizer.pad_id = other.tokenizer.end_id
    for a, b in zip(SCORER.score(SESSIONS), other.score(SESSIONS), strict=True):
        assert a.line_losses_L == pytest.approx(b.line_losses_L, abs=1e-6)


def test_losses_agree_with_transformers_own_loss() -> None:
    said = Said("instance", SESSIONS[0].texts[:4])
    window, tail, line_set = SCORER.prepare(said).windows
    assert (window.part, tail.part, line_set.part) == ("lines", "tail", "line_set")
    ids = torch.tensor([window.ids_T])
    with torch.inference_mode():
        output = SCORER.model(ids, labels=ids)
    ours = token_losses(output.logits, ids)[0]
    assert float(ours.sum()) / (ids.shape[1] - 1) == pytest.approx(float(output.loss), abs=1e-5)
    (score,) = SCORER.score([said])
    for index, loss in enumerate(score.line_losses_L):
        mine = [float(ours[t]) for t, whose in enumerate(window.line_T) if whose == index]
        assert loss == pytest.approx(sum(mine), abs=1e-5)


def test_a_session_of_many_windows_has_every_line_scored_and_its_tail_scores_no_line_twice() -> None:
    lines = [text for session in SESSIONS for text in session.texts][:300]
    (score,) = SCORER.score([Said("instance", lines)])
    assert len(SCORER.prepare(Said("instance", lines)).windows) > 5
    assert len(score.line_losses_L) == len(lines)
    assert np.isfinite(score.line_losses_L).all()
    # The end sees the tail alone: another beginning does not move it.
    (other,) = SCORER.score([Said("instance", ["INFO x wholly different", *lines[40:]])])
    assert other.statistics["end_loss"] == pytest.approx(score.statistics["end_loss"], abs=1e-5)


def test_a_line_never_seen_changes_the_loss_of_no_other_line() -> None:
    lines = next(session for session in SESSIONS if session.kind == "instance").texts[:20]
    (without,) = SCORER.score([Said("instance", lines)])
    (with_it,) = SCORER.score([Said("instance", [*lines[:7], "CRITICAL never.seen at all", *lines[7:]])])
    assert np.delete(with_it.line_losses_L, 7) == pytest.approx(without.line_losses_L, abs=1e-5)
    assert with_it.line_losses_L[7] > without.line_losses_L.max()
    assert (without.statistics["unseen_lines"], with_it.statistics["unseen_lines"]) == (0.0, 1.0)


def test_the_lines_of_a_beginning_cost_what_they_cost_in_the_whole_session() -> None:
    for session in SESSIONS[:10]:
        (whole,) = SCORER.score([session])
        for lines in (1, 5, 16, 17, 30):
            (beginning,) = SCORER.score([Said(session.kind, session.texts[:lines])])
            assert beginning.line_losses_L == pytest.approx(whole.line_losses_L[:lines], abs=1e-5)


def test_windows_that_were_read_before_give_the_same_scores_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = scorer()
    before = fresh.score(SESSIONS)
    # Whoever asks the model now gets an error: all is remembered.
    monkeypatch.setattr(fresh, "model", None)
    for a, b in zip(before, fresh.score(SESSIONS), strict=True):
        assert a.line_losses_L.tolist() == b.line_losses_L.tolist()
        assert a.statistics == b.statistics


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MEMO_TOKENS", 500)
    small = scorer()
    for a, b in zip(small.score(SESSIONS), SCORER.score(SESSIONS), strict=True):
        assert a.statistics == pytest.approx(b.statistics, abs=1e-4)
    assert 0 < sum(map(len, small._memo)) <= 500


def test_top_k_misses_are_the_share_of_lines_with_a_token_that_was_not_expected_and_only_there_if_asked_for() -> None:
    said = Said("instance", SESSIONS[0].texts[:8])
    asked = scorer(ranks=True)
    (score,) = asked.score([said])
    assert "top_k_misses" not in SCORER.score([said])[0].statistics
    missed: dict[int, bool] = {}
    for window in asked.prepare(said).windows:
        if window.part != "lines":
            continue
        with torch.inference_mode():
            logits_TV = asked.model(torch.tensor([window.ids_T])).logits[0]
        for place, whose in enumerate(window.line_T):
            if whose >= 0:
                likeliest = logits_TV[place - 1].topk(TOP_K).indices.tolist()
                missed[whose] = missed.get(whose, False) or window.ids_T[place] not in likeliest
    assert sum(missed.values()) > 0
    assert score.statistics["top_k_misses"] == pytest.approx(sum(missed.values()) / 8)


def test_without_a_line_set_or_a_tail_their_statistics_are_not_there() -> None:
    (bare,) = scorer(passes=Passes(line_set=False)).score(SESSIONS[:1])
    assert not {"digest_loss", "digest_end_loss", "end_loss"} & set(bare.statistics)
    (full,) = SCORER.score(SESSIONS[:1])
    assert {"digest_loss", "digest_end_loss", "end_loss"} <= set(full.statistics)


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
    in_order = [(i,) * length for i, length in enumerate(sorted(lengths))]
    batches: list[Sequence[tuple[int, ...]]] = []
    while (done := sum(map(len, batches))) < len(in_order):
        batches.append(sizes._next_batch(in_order, done))
    assert [ids_T for batch in batches for ids_T in batch] == in_order
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(map(len, batch)) <= batch_tokens


def scorer_with(batch_tokens: int) -> Scorer:
    return Scorer(
        SCORER.model,
        SCORER.tokenizer,
        SCORER.device,
        line_frequencies=LINE_FREQUENCIES,
        passes=SCORER.passes,
        batch_tokens=batch_tokens,
    )


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


class Full(torch.nn.Module):
    """A real model whose device has memory for so many tokens at once, until it is moved to another device."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config
        self.most_tokens: float = math.inf
        self.error: Exception = torch.OutOfMemoryError("full")
        self.seen: list[int] = []

    def forward(self, ids_BT: torch.Tensor) -> Any:
        if ids_BT.numel() > self.most_tokens:
            raise self.error
        self.seen.append(ids_BT.numel())
        return self.inner(ids_BT)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.most_tokens = math.inf
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]  # of torch


class OtherDevice(Scorer):
    """Reads on the CPU and calls it a GPU, until it moves to the CPU: so this can be tested on any machine."""

    def _read_batch(self, batch: Sequence[tuple[int, ...]]) -> Any:
        called, self.device = self.device, torch.device("cpu")
        try:
            return super()._read_batch(batch)
        finally:
            self.device = called


def full(most_tokens: int, error: Exception, kind: type[Scorer] = OtherDevice) -> tuple[Scorer, Full]:
    roomy = scorer()
    model = Full(roomy.model)
    made = kind(
        cast("Any", model), roomy.tokenizer, torch.device("cpu"), line_frequencies=LINE_FREQUENCIES, passes=roomy.passes
    )
    model.most_tokens, model.error = most_tokens, error
    if kind is OtherDevice:
        made.device = torch.device("cuda")
    return made, model


def assert_same(scores: Sequence[SessionScore]) -> None:
    for a, b in zip(SCORER.score(SESSIONS), scores, strict=True):
        assert a.statistics == pytest.approx(b.statistics, abs=1e-4)
        assert a.line_losses_L == pytest.approx(b.line_losses_L, abs=1e-4)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA error: out of memory")])
def test_a_device_without_memory_gets_smaller_batches_and_the_scores_stay_the_same(error: Exception) -> None:
    made, model = full(200, error)
    assert_same(made.score(SESSIONS))
    assert made.device.type == "cuda"
    assert 100 <= made.batch_tokens <= 200
    assert max(model.seen) <= 200


def test_a_device_without_memory_for_one_window_is_left_for_the_cpu_and_the_scores_stay_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, _ = full(10, torch.OutOfMemoryError("full"))
    assert_same(made.score(SESSIONS))
    assert made.device == torch.device("cpu")
    assert made.batch_tokens == 8192
    assert capsys.readouterr().out.count("now_device=cpu") == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: you tried")])
def test_a_cpu_without_memory_is_an_error_that_says_what_to_do(error: Exception) -> None:
    made, _ = full(200, error, Scorer)
    with pytest.raises(UserError, match="lower batch_tokens"):
        made.score(SESSIONS)


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory() -> None:
    made, _ = full(200, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        made.score(SESSIONS)


@pytest.mark.gpu
def test_a_cuda_device_that_is_full_gets_smaller_batches() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    big = scorer(batch_tokens=2**22, device="cuda")
    torch.cuda.empty_cache()
    whole_bytes = torch.cuda.get_device_properties(0).total_memory
    sessions = nova34().sessions
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 200_000_000) / whole_bytes)
        scores = big.score(sessions)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert big.device.type == "cuda"
    assert big.batch_tokens < 2**22
    for a, b in zip(SCORER.score(sessions), scores, strict=True):
        assert a.line_losses_L == pytest.approx(b.line_losses_L, abs=1e-2)


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


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50), st.integers(0, 49), st.floats(0.1, 100))
def test_a_more_surprising_line_never_lowers_a_mean_of_clipped_losses(
    losses: list[float], where: int, more: float
) -> None:
    before = clipped(np.array(losses)).mean()
    losses[where % len(losses)] += more
    assert clipped(np.array(losses)).mean() >= before - 1e-9


def test_two_sessions_of_very_strange_lines_are_still_told_apart() -> None:
    one, other = (clipped(np.array([CLIP_NATS + x] * 6)).mean() for x in (100.0, 101.0))
    assert one < other


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
    assert scale.surprise(values[0] + 10.0) > usual + 5
    assert scale.surprise(values[0] + 11.0) > scale.surprise(values[0] + 10.0)
    assert scale.surprise(values[0] - 1.0) <= usual


def unseen(*counts: float) -> dict[str, Scale | CountScale]:
    return fit_scales([{"unseen_lines": count} for count in counts], ["unseen_lines"])


def test_a_line_never_seen_is_as_surprising_as_sessions_with_one_are_rare() -> None:
    generator = np.random.default_rng(1)
    calibrated = unseen(*generator.binomial(1, 0.05, 2000).tolist())["unseen_lines"]
    assert calibrated.surprise(1.0) == pytest.approx(-math.log(0.05), abs=0.3)
    assert calibrated.surprise(0.0) == 0.0
    assert calibrated.surprise(3.0) == pytest.approx(3 * calibrated.surprise(1.0))


def test_what_no_normal_session_has_is_the_more_surprising_the_more_of_them_there_are() -> None:
    few, many = (unseen(*[0.0] * sessions)["unseen_lines"].surprise(1.0) for sessions in (20, 2000))
    assert few == pytest.approx(math.log(21 / 0.5))
    assert many > few + 4


def test_one_failure_with_a_hundred_lines_never_seen_changes_the_scale_as_one_with_a_single_line_does() -> None:
    assert unseen(*[0.0] * 39, 1.0) == unseen(*[0.0] * 39, 100.0)


def test_where_most_sessions_have_lines_never_seen_it_is_their_number_that_counts() -> None:
    scale = unseen(3.0, 4.0, 5.0, 6.0, 7.0, 4.0)["unseen_lines"]
    assert scale.surprise(5.0) < 2
    assert scale.surprise(100.0) > 10


def test_scales_of_both_kinds_are_kept_in_a_bundle() -> None:
    normal = [{"digest_loss": x, "unseen_lines": float(x > 3)} for x in (1.0, 2.0, 3.0, 4.0)]
    scales = fit_scales(normal, ["digest_loss", "unseen_lines"])
    assert {type(scale) for scale in scales.values()} == {Scale, CountScale}
    assert scales_from_json(scales_to_json(scales)) == scales


def test_the_combination_adds_the_surprises() -> None:
    normal = [{"digest_loss": x, "end_loss": 10 - x, "unused": 0.0} for x in (1.0, 2.0, 3.0, 4.0)]
    scales = fit_scales(normal, ["digest_loss", "end_loss"])
    odd = {"digest_loss": 30.0, "end_loss": 6.0, "unused": 1e9}
    assert combine(odd, scales) == pytest.approx(sum(surprises(odd, scales).values()))
    assert combine(odd, scales) == pytest.approx(
        scales["digest_loss"].surprise(30.0) + scales["end_loss"].surprise(6.0)
    )
    assert combine(odd, scales) > max(combine(each, scales) for each in normal)


def test_a_count_does_not_outweigh_two_others_by_being_extreme() -> None:
    scales = {"unseen_lines": Scale(0.0, 0.0, 0.2), "digest_loss": Scale(0.0, 0.0, 0.2)}
    strong = surprises({"unseen_lines": 2.0, "digest_loss": 2.0}, scales)
    extreme = surprises({"unseen_lines": 1e6, "digest_loss": 1e6}, scales)
    assert CAP_NATS < strong["unseen_lines"] < extreme["unseen_lines"] < 2 * strong["unseen_lines"]
    # Losses were clipped line by line before.
    assert extreme["digest_loss"] == scales["digest_loss"].surprise(1e6)
