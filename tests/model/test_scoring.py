"""Sessions to scores with a real GPT: the same alone and in any company."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loggpt_stream.errors import UserError
from loggpt_stream.model.gpt import ModelShape, choose_device, new_model
from loggpt_stream.model.losses import token_losses
from loggpt_stream.model.scoring import AbandonedError, Scorer, SessionScore
from loggpt_stream.model.sequence import Passes
from loggpt_stream.model.statistics import (
    CLIP_NATS,
    COMBINATIONS,
    STATISTICS,
    TOP_K,
    Scale,
    clipped,
    combine,
    fit_scales,
    surprises,
)
from tests.tiny_bundle import books_of, nova34, untrained_parts

PASSES = Passes()


@dataclass(frozen=True)
class Said:
    kind: str
    texts: list[str]
    times_s: list[float] = field(default_factory=lambda: [0.0] * 999)


def scorer(
    batch_tokens: int = 4096, device: str = "cpu", *, passes: Passes = PASSES, known: int = 60, ranks: bool = False
) -> Scorer:
    """Return a scorer that remembers nothing yet. `known`: so many first sessions are in its books."""
    torch.manual_seed(3)
    tokenizer, _ = untrained_parts()
    shape = ModelShape(layers=2, width=32, heads=2, context_tokens=64)
    model = new_model(shape, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    # The first weights of a GPT-2 are so small that all its losses are nearly alike.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    books = books_of(nova34().sessions[:known])
    return Scorer(
        model, tokenizer, torch.device(device), books=books, passes=passes, batch_tokens=batch_tokens, ranks=ranks
    )


SCORER = scorer()
SESSIONS = nova34().sessions[:40]
LINES = SESSIONS[0].texts[:30]
STRANGE = "ERROR something else entirely, which no session of training has"


def assert_equal(a: SessionScore, b: SessionScore, abs_: float = 1e-5) -> None:
    assert a.line_losses_L == pytest.approx(b.line_losses_L, abs=abs_)
    assert a.digest_losses_D == pytest.approx(b.digest_losses_D, abs=abs_)
    assert a.end_loss == pytest.approx(b.end_loss, abs=abs_)
    assert a.statistics == pytest.approx(b.statistics, abs=abs_)
    assert (a.digest, a.untimely) == (b.digest, b.untimely)


def test_batched_and_alone_give_equal_scores() -> None:
    together, alone = scorer(), scorer()
    for session, score in zip(SESSIONS, together.score(SESSIONS), strict=True):
        alone._memo.clear()  # else what one session says again is read with another
        assert_equal(score, *alone.score([session]))


def test_the_size_of_batches_changes_nothing() -> None:
    for a, b in zip(SCORER.score(SESSIONS), scorer(batch_tokens=64).score(SESSIONS), strict=True):
        assert_equal(a, b)


def test_there_is_a_loss_for_each_line_and_it_is_the_sum_over_its_tokens() -> None:
    for session, score in zip(SESSIONS, SCORER.score(SESSIONS), strict=True):
        assert len(score.line_losses_L) == len(session.lines) == len(score.token_losses)
        for text, tokens, loss in zip(session.texts, score.token_losses, score.line_losses_L, strict=True):
            assert len(tokens) == len(SCORER.tokenizer.encode(text))
            assert loss == pytest.approx(tokens.sum())


def test_a_line_is_not_touched_by_what_follows_it() -> None:
    (short,) = SCORER.score([Said("instance", LINES[:6])])
    (longer,) = SCORER.score([Said("instance", LINES[:7])])
    assert longer.line_losses_L[:6] == pytest.approx(short.line_losses_L, abs=1e-5)
    assert longer.end_loss != pytest.approx(short.end_loss, abs=1e-3)


@pytest.mark.parametrize(("separator", "hygiene"), [(False, True), (True, True), (False, False)])
def test_the_first_lines_of_a_session_cost_what_they_cost_alone(separator: bool, hygiene: bool) -> None:
    passes = Passes(block_lines=4, separator=separator, hygiene=hygiene)
    lines = [*LINES[:9], STRANGE, *LINES[9:14], STRANGE + " again", *LINES[14:]]
    (whole,) = scorer(passes=passes).score([Said("instance", lines)])
    prefixes = scorer(passes=passes).score([Said("instance", lines[:n]) for n in range(1, len(lines) + 1)])
    for n, prefix in enumerate(prefixes, 1):
        assert prefix.line_losses_L == pytest.approx(whole.line_losses_L[:n], abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(places=st.lists(st.integers(0, len(LINES)), min_size=1, max_size=4))
def test_no_line_costs_more_or_less_for_a_line_never_seen_elsewhere_in_the_session(places: list[int]) -> None:
    lines: list[str | None] = list(LINES)
    for place in places:
        lines.insert(place, None)
    (plain,) = SCORER.score([Said("instance", LINES)])
    (strange,) = scorer_with(4096).score([Said("instance", [line or STRANGE for line in lines])])
    mine = [i for i, line in enumerate(lines) if line]
    assert strange.line_losses_L[mine] == pytest.approx(plain.line_losses_L, abs=1e-5)
    assert strange.end_loss == pytest.approx(plain.end_loss, abs=1e-5)
    others = [i for i, line in enumerate(lines) if not line]
    (alone,) = SCORER.score([Said("instance", [STRANGE])])
    assert strange.line_losses_L[others] == pytest.approx(alone.line_losses_L.repeat(len(others)), abs=1e-5)


def test_without_hygiene_a_line_never_seen_changes_what_those_after_it_cost() -> None:
    poisoned = scorer(passes=Passes(hygiene=False))
    plain, strange = poisoned.score([Said("instance", LINES), Said("instance", [LINES[0], STRANGE, *LINES[1:]])])
    assert strange.line_losses_L[0] == pytest.approx(plain.line_losses_L[0], abs=1e-5)
    assert strange.line_losses_L[2] != pytest.approx(plain.line_losses_L[1], abs=1e-3)


def test_a_block_starts_afresh() -> None:
    blocks = scorer(passes=Passes(block_lines=4))
    (score,) = blocks.score([Said("instance", LINES)])
    (second,) = blocks.score([Said("instance", LINES[4:8])])
    assert score.line_losses_L[4:8] == pytest.approx(second.line_losses_L, abs=1e-5)
    (other_first,) = blocks.score([Said("instance", [*LINES[20:24], *LINES[4:]])])
    assert other_first.line_losses_L[4:] == pytest.approx(score.line_losses_L[4:], abs=1e-5)


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
        assert_equal(a, b, 1e-6)


def test_losses_agree_with_transformers_own_loss() -> None:
    said = Said("instance", LINES[:4])
    prepared = SCORER.prepare(said)
    (score,) = SCORER.score([said])
    assert [window.part for window in prepared.windows] == ["lines", "tail", "digest"]
    for window in prepared.windows:
        ids = torch.tensor([window.ids_T])
        with torch.inference_mode():
            output = SCORER.model(ids, labels=ids)
        ours = token_losses(output.logits, ids)[0]
        assert float(ours.sum()) / (ids.shape[1] - 1) == pytest.approx(float(output.loss), abs=1e-5)
        expected = {"lines": score.line_losses_L, "tail": [], "digest": score.digest_losses_D}[window.part]
        for index, loss in enumerate(expected):
            mine = [float(ours[t]) for t, whose in enumerate(window.line_T) if whose == index]
            assert loss == pytest.approx(sum(mine), abs=1e-5)
        if window.part == "tail":
            assert score.end_loss == score.statistics["end_loss"] == pytest.approx(float(ours[-1]), abs=1e-5)
        if window.part == "digest":
            assert score.statistics["digest_end_loss"] == pytest.approx(float(ours[-1]), abs=1e-5)


def test_a_session_of_many_windows_has_every_line_scored_and_its_tail_scores_no_line_twice() -> None:
    lines = [text for session in SESSIONS for text in session.texts][:300]
    (score,) = SCORER.score([Said("instance", lines)])
    assert len(SCORER.prepare(Said("instance", lines)).windows) > 5
    assert len(score.line_losses_L) == len(lines)
    assert np.isfinite(score.line_losses_L).all()
    assert len(score.digest) == len(score.digest_losses_D) == len(set(lines))
    # The end sees the tail alone: another beginning does not move it.
    (other,) = SCORER.score([Said("instance", ["INFO x wholly different", *lines[40:]])])
    assert other.end_loss == pytest.approx(score.end_loss, abs=1e-5)


def test_statistics_are_those_of_the_losses_and_of_the_book() -> None:
    session = next(
        each
        for each in nova34().sessions[60:]
        if any(text not in SCORER.books[each.kind] for text in each.texts) and len(each.lines) > 20
    )
    (score,) = SCORER.score([session])
    found, book = score.statistics, SCORER.books[session.kind]
    assert set(found) == set(STATISTICS) - {"top_k_misses"}
    assert found["max_line_loss"] == score.line_losses_L.max()
    assert found["mean_line_loss"] == pytest.approx(clipped(score.line_losses_L).mean())
    digest = (clipped(score.digest_losses_D).sum() + found["digest_end_loss"]) / (len(score.digest) + 1)
    assert found["digest_loss"] == pytest.approx(digest)
    assert score.digest == book.digest(session.texts)
    assert found["absent_lines"] == book.absence(session.texts)
    assert found["unseen_lines"] == len({text for text in session.texts if text not in book}) > 0
    assert (found["untimely_line"], score.untimely) == book.untimely(session.texts, session.times_s)


def test_a_digest_tells_what_is_missing_whatever_the_order_of_the_lines() -> None:
    shuffled = sorted(LINES, key=lambda line: line[::-1])
    one, other, less = SCORER.score(
        [Said("instance", LINES), Said("instance", shuffled), Said("instance", [*dict.fromkeys(LINES)][1:])]
    )
    assert one.digest_losses_D.tolist() == other.digest_losses_D.tolist()
    assert one.statistics["digest_loss"] == other.statistics["digest_loss"] != less.statistics["digest_loss"]
    assert less.statistics["absent_lines"] > one.statistics["absent_lines"]


def test_without_the_digest_pass_there_is_no_digest() -> None:
    (score,) = scorer(passes=Passes(digest=False)).score([Said("instance", LINES)])
    assert score.digest == []
    assert score.digest_losses_D.size == 0
    assert not {"digest_loss", "digest_end_loss"} & set(score.statistics)


def test_a_kind_without_training_sessions_is_scored_line_by_line() -> None:
    stranger = scorer()
    del stranger.books["window"]
    (score,) = stranger.score([Said("window", LINES)])
    assert score.statistics["unseen_lines"] == len(set(LINES))
    assert score.statistics["absent_lines"] == 0
    assert len(score.line_losses_L) == len(LINES)


def test_windows_that_are_remembered_give_the_same_scores_as_those_that_are_read() -> None:
    again = scorer()
    first, second = again.score(SESSIONS), again.score(SESSIONS)
    for a, b in zip(first, second, strict=True):
        assert a.line_losses_L.tolist() == b.line_losses_L.tolist()
        assert a.statistics == b.statistics
    # Read a second time they would not have been: a model with other weights gives other losses.
    with torch.no_grad():
        again.model.transformer.wpe.weight.add_(1.0)
    assert [each.statistics for each in again.score(SESSIONS)] == [each.statistics for each in first]
    again._memo.clear()
    assert [each.statistics for each in again.score(SESSIONS)] != [each.statistics for each in first]


def test_what_is_remembered_is_bounded_and_the_longest_unused_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loggpt_stream.model.scoring._MEMO_TOKENS", 200)
    bounded = scorer()
    for session, expected in zip(SESSIONS, SCORER.score(SESSIONS), strict=True):
        assert_equal(*bounded.score([session]), expected)
        assert bounded._memo_tokens == sum(map(len, bounded._memo)) <= 200
    # More in one call than can be remembered: all is scored all the same.
    for a, b in zip(bounded.score(SESSIONS), SCORER.score(SESSIONS), strict=True):
        assert_equal(a, b)
    used, *others = (Said("instance", [line]) for line in dict.fromkeys(t for each in SESSIONS for t in each.texts))
    bounded.score([used])
    kept = {ids_T: bounded._memo[ids_T] for ids_T in list(bounded._memo)[-3:]}
    for other in others:
        bounded.score([other])
        bounded.score([used])
    assert len(others) * 3 > 2 * len(bounded._memo)
    assert all(bounded._memo[ids_T] is read for ids_T, read in kept.items())  # never read again


def test_a_window_that_comes_twice_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    counting = scorer()
    batches = counting._batches
    monkeypatch.setattr(counting, "_batches", lambda lengths: (read.append(len(lengths)), batches(lengths))[1])
    counting.score([Said("instance", LINES)] * 50)
    counting.score([Said("instance", LINES)])
    assert read == [len(SCORER.prepare(Said("instance", LINES)).windows), 0]


def test_ranks_are_given_only_where_they_are_asked_for() -> None:
    said = Said("instance", LINES)
    (without,), (ranked,) = scorer().score([said]), scorer(ranks=True).score([said])
    assert "top_k_misses" not in without.statistics
    assert {**without.statistics, "top_k_misses": ranked.statistics["top_k_misses"]} == pytest.approx(ranked.statistics)


@pytest.mark.parametrize("top_k", [TOP_K, 400])
def test_top_k_misses_is_the_share_of_lines_with_a_token_that_was_not_among_the_likeliest(
    top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The larger one, because the model is a bad guesser: so some lines miss by one token alone.
    monkeypatch.setattr("loggpt_stream.model.scoring.TOP_K", top_k)
    ranking = scorer(ranks=True, passes=Passes(block_lines=8))
    lines = [*LINES, *(f"{STRANGE} {'xyz' * n}" for n in range(8))]
    (score,) = ranking.score([Said("instance", lines)])
    missed = set()
    for window in ranking.prepare(Said("instance", lines)).windows:
        if window.part == "lines":
            with torch.inference_mode():
                likeliest = ranking.model(torch.tensor([window.ids_T])).logits[0].topk(top_k).indices.tolist()
            missed |= {
                whose for t, whose in enumerate(window.line_T) if whose >= 0 and window.ids_T[t] not in likeliest[t - 1]
            }
    assert score.statistics["top_k_misses"] == pytest.approx(len(missed) / len(lines))
    assert 0 < len(missed) <= len(lines)


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
    return Scorer(
        SCORER.model,
        SCORER.tokenizer,
        SCORER.device,
        books=SCORER.books,
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
def test_a_more_surprising_line_never_lowers_what_lines_count(losses: list[float], where: int, more: float) -> None:
    before = clipped(np.array(losses))
    losses[where % len(losses)] += more
    after = clipped(np.array(losses))
    assert (after >= before).all()
    assert after.sum() > before.sum()


def test_two_sessions_of_very_strange_lines_are_still_told_apart() -> None:
    one, other = (clipped(np.array([CLIP_NATS + x] * 6)) for x in (100.0, 101.0))
    assert one.mean() < other.mean() < CLIP_NATS + 6


def test_a_loss_below_the_clip_counts_whole() -> None:
    assert clipped(np.array([0.0, 3.5, CLIP_NATS])).tolist() == [0.0, 3.5, CLIP_NATS]


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
    # A hair is no surprise, many times as much is.
    assert scale.surprise(values[0] + 0.01) < usual + 0.1
    assert scale.surprise(values[0] + 1.0) > usual + 1
    assert scale.surprise(10 * abs(values[0]) + 9.0) > usual + 10
    assert scale.surprise(values[0] - 1.0) <= usual


def test_the_combination_adds_the_surprises_of_the_statistics_that_it_is_asked_for() -> None:
    normal = [{"end_loss": x / 10, "max_line_loss": x, "unseen_lines": 0.0} for x in (1.0, 2.0, 3.0, 4.0)]
    scales = fit_scales(normal, ["end_loss", "max_line_loss"])
    assert list(scales) == ["end_loss", "max_line_loss"]
    odd = {"end_loss": 8.0, "max_line_loss": 30.0, "unseen_lines": 5.0}
    assert surprises(odd, scales) == {name: scale.surprise(odd[name]) for name, scale in scales.items()}
    assert combine(odd, scales) == pytest.approx(sum(scale.surprise(odd[name]) for name, scale in scales.items()))
    assert combine(odd, scales) > max(combine(each, scales) for each in normal)


def test_combinations_are_of_statistics_that_there_are() -> None:
    for names in COMBINATIONS.values():
        assert set(names) <= set(STATISTICS)
        assert len(set(names)) == len(names)
