"""Sessions to windows: every line, digest line and end scored once, whatever the lengths and the passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.book import EMPTY, LineBook
from loggpt_stream.model.sequence import END_OF_SESSION, NOBODY, Passes, Window, windows
from loggpt_stream.model.tokenizer import LineTokenizer, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

TOKENIZER = LineTokenizer(
    train_tokenizer(["one two three four five six"] * 3, vocabulary_size=300, piece_vocabulary_size=280),
    max_line_tokens=16,
)
KIND = TOKENIZER.kind_ids["instance"]
END = TOKENIZER.end_id
DIGEST = TOKENIZER.digest_id
LOG = TOKENIZER.log_id
ONLY_LINES = Passes(digest=False)


def book_of(*of_sessions: Sequence[str]) -> LineBook:
    return LineBook.of(
        [
            Session("key", "instance", 0.0, 0.0, 0, lines=[Line(0.0, 0, text, "", "raw") for text in texts])
            for texts in of_sessions
        ]
    )


def ids(*lines: str, before: Sequence[int] = ()) -> list[int]:
    return [token for line in lines for token in (*before, *TOKENIZER.encode(line))]


def cut(
    lines: Sequence[str], context: int = 40, *, passes: Passes = ONLY_LINES, book: LineBook | None = None
) -> list[Window]:
    """Cut; all lines are known, unless there is a book."""
    return windows("instance", lines, TOKENIZER, context, passes=passes, book=book or book_of(lines))


def of(part: str, found: Sequence[Window]) -> list[Window]:
    return [window for window in found if window.part == part]


def lines_in(window: Window) -> list[int]:
    return list(dict.fromkeys(whose for whose in window.line_T if whose >= 0))


def test_a_short_session_is_a_block_a_tail_and_a_digest() -> None:
    book = book_of(["bc", "a"], ["bc"])
    block, tail, digest = cut(["a", "bc", "a"], passes=Passes(), book=book)
    a, bc = TOKENIZER.encode("a"), TOKENIZER.encode("bc")
    assert block == Window("lines", (KIND, *a, *bc, *a), (NOBODY, *[0] * len(a), *[1] * len(bc), *[2] * len(a)))
    assert tail == Window("tail", (KIND, *a, *bc, *a, END), (*[NOBODY] * (2 * len(a) + len(bc) + 1), END_OF_SESSION))
    # The commonest line comes first, each once; whose loss it is counts within the digest.
    assert digest == Window(
        "digest", (KIND, DIGEST, *bc, *a, END), (NOBODY, NOBODY, *[0] * len(bc), *[1] * len(a), END_OF_SESSION)
    )


def test_a_separator_stands_before_each_line_of_each_pass_and_is_nobodys() -> None:
    block, tail, digest = cut(["a", "b"], passes=Passes(separator=True))
    assert list(block.ids_T) == [KIND, *ids("a", "b", before=(LOG,))]
    assert list(tail.ids_T) == [KIND, *ids("a", "b", before=(LOG,)), END]
    assert list(digest.ids_T) == [KIND, DIGEST, *ids("a", "b", before=(LOG,)), END]
    for window in (block, tail, digest):
        assert {whose for token, whose in zip(window.ids_T, window.line_T, strict=True) if token == LOG} == {NOBODY}


def test_after_so_many_lines_the_context_starts_afresh() -> None:
    lines = [f"l{n}" for n in range(11)]
    blocks = of("lines", cut(lines, 80, passes=Passes(block_lines=4, digest=False)))
    assert [lines_in(window) for window in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [list(window.ids_T) for window in blocks] == [[KIND, *ids(*lines[start : start + 4])] for start in (0, 4, 8)]


def test_a_block_that_does_not_fit_the_context_goes_on_in_another_window_and_the_next_block_still_starts_afresh() -> (
    None
):
    lines = [f"{n:08d}" for n in range(8)]  # more than two do not fit
    assert len(TOKENIZER.encode(lines[0])) == 8
    blocks = of("lines", cut(lines, 20, passes=Passes(block_lines=3, digest=False)))
    assert [lines_in(window) for window in blocks] == [[0, 1], [2], [3, 4], [5], [6, 7]]


def test_a_line_never_seen_has_its_own_window_and_is_in_no_other_but_the_digest() -> None:
    book = book_of(["a", "b", "c"], ["c"])
    found = cut(["a", "X!", "b", "Y?", "c", "X!"], passes=Passes(), book=book)
    blocks = of("lines", found)
    assert [lines_in(window) for window in blocks] == [[0, 2, 4], [1], [3], [5]]
    assert [list(window.ids_T) for window in blocks[1:]] == [[KIND, *ids(line)] for line in ("X!", "Y?", "X!")]
    (tail,) = of("tail", found)
    assert list(tail.ids_T) == [KIND, *ids("a", "b", "c"), END]
    (digest,) = of("digest", found)
    assert list(digest.ids_T) == [KIND, DIGEST, *ids("c", "a", "b", "X!", "Y?"), END]


def test_blocks_are_counted_in_known_lines() -> None:
    book = book_of(["a", "b", "c"])
    blocks = of("lines", cut(["a", "X", "b", "Y", "c"], passes=Passes(block_lines=2, digest=False), book=book))
    assert [lines_in(window) for window in blocks] == [[0, 2], [4], [1], [3]]


def test_without_hygiene_a_line_never_seen_stands_among_the_others() -> None:
    block, tail = cut(["a", "X", "b"], passes=Passes(hygiene=False, digest=False), book=book_of(["a", "b"]))
    assert list(block.ids_T) == [KIND, *ids("a", "X", "b")]
    assert list(tail.ids_T) == [KIND, *ids("a", "X", "b"), END]


def test_a_session_of_lines_never_seen_alone_still_has_an_end_and_a_digest() -> None:
    found = cut(["X", "Y"], passes=Passes(), book=EMPTY)
    assert [lines_in(window) for window in of("lines", found)] == [[0], [1]]
    assert [window.ids_T for window in of("tail", found)] == [(KIND, END)]
    assert [list(window.ids_T) for window in of("digest", found)] == [[KIND, DIGEST, *ids("X", "Y"), END]]


def test_the_tail_holds_the_last_known_lines_and_the_end() -> None:
    lines = [f"l{n}" for n in range(10)]
    book = book_of(lines[:8])
    (tail,) = of("tail", cut(lines, 80, passes=Passes(tail_lines=3), book=book))
    assert list(tail.ids_T) == [KIND, *ids("l5", "l6", "l7"), END]
    assert set(tail.line_T[:-1]) == {NOBODY}
    assert tail.line_T[-1] == END_OF_SESSION


def test_the_end_of_a_long_session_is_scored_after_as_much_of_its_tail_as_fits() -> None:
    lines = [f"l{n}" for n in range(100)]
    (tail,) = of("tail", cut(lines))
    assert tail.ids_T[-1] == END
    assert set(tail.line_T[:-1]) == {NOBODY}
    assert list(tail.ids_T[1:-1]) == ids(*lines)[-len(tail.ids_T[1:-1]) :]
    assert 36 < len(tail.ids_T) <= 40


def test_a_long_digest_takes_several_windows_which_all_say_that_they_are_one_and_the_last_holds_the_end() -> None:
    lines = [f"{n:08d}" for n in range(9)]
    found = of("digest", cut(lines, 20, passes=Passes()))
    assert len(found) == 5
    assert all(window.ids_T[:2] == (KIND, DIGEST) for window in found)
    assert all(window.line_T[:2] == (NOBODY, NOBODY) for window in found)
    assert [lines_in(window) for window in found] == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    assert [END in window.ids_T for window in found] == [False] * 4 + [True]


PASSES = st.builds(
    Passes,
    block_lines=st.integers(1, 20),
    tail_lines=st.integers(1, 70),
    digest=st.booleans(),
    hygiene=st.booleans(),
    separator=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    known=st.sets(st.integers(1, 40)),
    context=st.integers(20, 80),
    passes=PASSES,
)
def test_each_line_each_digest_line_and_the_end_are_scored_exactly_once_within_the_context(
    lengths: list[int], known: set[int], context: int, passes: Passes
) -> None:
    lines = ["x" * length for length in lengths]
    book = book_of(["x" * length for length in sorted(known)])
    found = cut(lines, context, passes=passes, book=book)
    assert all(len(window.ids_T) == len(window.line_T) <= context for window in found)
    assert all(window.ids_T[0] == KIND for window in found)
    digest = book.digest(lines)
    for part, scored in (("lines", lines), ("digest", digest if passes.digest else [])):
        # In the order of the windows, but for lines kept apart; within a line, in the order of its tokens.
        tokens = [
            (whose, token)
            for window in of(part, found)
            for whose, token in zip(window.line_T, window.ids_T, strict=True)
            if whose >= 0
        ]
        tokens.sort(key=lambda each: each[0])
        assert tokens == [(i, token) for i, line in enumerate(scored) for token in TOKENIZER.encode(line)]
    ends = [window.part for window in found for whose in window.line_T if whose == END_OF_SESSION]
    assert ends == ["tail", *["digest"] * passes.digest]
    assert all(window.line_T[-1] == END_OF_SESSION for window in of("tail", found))
    assert all(window.ids_T[-1] == END for window in found if END in window.ids_T)
    for window in of("lines", found):
        assert len(lines_in(window)) <= passes.block_lines
        assert not passes.hygiene or len(lines_in(window)) == 1 or all(lines[i] in book for i in lines_in(window))


@given(st.integers(1, 19))
def test_a_context_that_cannot_hold_a_line_is_refused(context: int) -> None:
    with pytest.raises(ValueError, match=f"context of {context} tokens"):
        cut(["a"], context=context)
