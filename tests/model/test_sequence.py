"""Sessions to windows: every line and the end scored once, whatever the lengths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loggpt_stream.model.sequence import END_OF_SESSION, NOBODY, windows
from loggpt_stream.model.tokenizer import LineTokenizer, train_tokenizer

TOKENIZER = LineTokenizer(
    train_tokenizer(["one two three four five six"] * 3, vocabulary_size=300, piece_vocabulary_size=280),
    max_line_tokens=16,
)


def cut(lines: list[str], context: int = 40) -> list[tuple[list[int], list[int]]]:
    return [(window.ids_T, window.line_T) for window in windows("instance", lines, TOKENIZER, context)]


def test_a_short_session_is_one_window_from_kind_to_end() -> None:
    ((ids, whose),) = cut(["a", "bc"])
    log = TOKENIZER.log_id
    a, bc = TOKENIZER.encode("a"), TOKENIZER.encode("bc")
    assert ids == [TOKENIZER.kind_ids["instance"], log, *a, log, *bc, TOKENIZER.end_id]
    assert whose == [NOBODY, NOBODY, *[0] * len(a), NOBODY, *[1] * len(bc), END_OF_SESSION]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), context=st.integers(19, 80))
def test_each_line_and_the_end_are_scored_exactly_once_within_the_context(lengths: list[int], context: int) -> None:
    lines = ["x" * length for length in lengths]
    found = cut(lines, context)
    whose = [each for _, line_T in found for each in line_T]
    assert all(len(ids) <= context for ids, _ in found)
    assert whose.count(END_OF_SESSION) == 1
    for index, line in enumerate(lines):
        assert whose.count(index) == len(TOKENIZER.encode(line))
    tokens = [(i, t) for ids, line_T in found for i, t in zip(line_T, ids, strict=True) if i >= 0]
    assert tokens == [(i, token) for i, line in enumerate(lines) for token in TOKENIZER.encode(line)]


def test_the_end_of_a_long_session_is_scored_after_as_much_of_its_tail_as_fits() -> None:
    lines = [f"l{n}" for n in range(100)]
    ids, whose = cut(lines)[-1]
    assert ids[-1] == TOKENIZER.end_id
    assert set(whose[:-1]) == {NOBODY}
    tail = [token for line in lines for token in (TOKENIZER.log_id, *TOKENIZER.encode(line))]
    assert ids[1:-1] == tail[-len(ids[1:-1]) :]
    assert len(ids) > 30


def test_a_context_that_cannot_hold_a_line_is_refused() -> None:
    with pytest.raises(ValueError, match="context of 18"):
        cut(["a"], context=18)
