"""Sessions to windows: every line, distinct line and end scored once, whatever the lengths and the passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loggpt_stream.model.line_frequencies import KnownLine, LineFrequencies
from loggpt_stream.model.sequence import END_OF_SESSION, NOBODY, Passes, Window, windows
from loggpt_stream.model.tokenizer import LineTokenizer, train_tokenizer

TOKENIZER = LineTokenizer(
    train_tokenizer(["one two three four five six"] * 3, vocabulary_size=300, piece_vocabulary_size=280),
    max_line_tokens=16,
)
KIND, LOG, END, LINE_SET = (
    TOKENIZER.kind_ids["instance"],
    TOKENIZER.log_id,
    TOKENIZER.end_id,
    TOKENIZER.line_set_id,
)


def frequencies(*lines: str) -> LineFrequencies:
    """Return frequencies in which the first line is the most frequent."""
    return LineFrequencies(
        100, {line: KnownLine(99 - place, None, None) for place, line in enumerate(dict.fromkeys(lines))}
    )


def cut(lines: list[str], known: LineFrequencies, passes: Passes = Passes(), context: int = 40) -> list[Window]:  # noqa: B008
    return windows("instance", lines, TOKENIZER, context, passes=passes, frequencies=known)


def of(part: str, found: list[Window]) -> list[Window]:
    return [window for window in found if window.part == part]


def test_a_short_session_is_one_block_and_its_line_set() -> None:
    a, bc = TOKENIZER.encode("a"), TOKENIZER.encode("bc")
    block, line_set = cut(["a", "bc", "a"], frequencies("bc", "a"))
    assert block == Window("lines", (KIND, *a, *bc, *a), (NOBODY, *[0] * len(a), *[1] * len(bc), *[2] * len(a)))
    assert line_set.ids_T == (KIND, LINE_SET, *bc, *a, END)
    assert line_set.line_T == (NOBODY, NOBODY, *[0] * len(bc), *[1] * len(a), END_OF_SESSION)


def test_the_context_starts_afresh_after_each_block() -> None:
    lines = [f"l{n % 3}" for n in range(10)]
    blocks = of("lines", cut(lines, frequencies("l0", "l1", "l2"), Passes(block_lines=4)))
    assert [sorted(set(window.line_T) - {NOBODY}) for window in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(window.ids_T[0] == KIND for window in blocks)


def test_a_line_never_seen_has_a_window_of_its_own_and_is_in_no_other_but_the_line_set() -> None:
    strange = TOKENIZER.encode("zz")
    found = cut(["a", "zz", "b"], frequencies("a", "b"), Passes(tail_lines=9))
    block, alone = of("lines", found)
    assert block.ids_T == (KIND, *TOKENIZER.encode("a"), *TOKENIZER.encode("b"))
    assert alone == Window("lines", (KIND, *strange), (NOBODY, *[1] * len(strange)))
    (tail,) = of("tail", found)
    assert tail.ids_T == (KIND, *TOKENIZER.encode("a"), *TOKENIZER.encode("b"), END)
    (line_set,) = of("line_set", found)
    assert line_set.ids_T[-1 - len(strange) :] == (*strange, END)


def test_without_isolation_a_line_never_seen_stands_in_its_place() -> None:
    (block, _) = cut(["a", "zz", "b"], frequencies("a", "b"), Passes(isolate_unseen=False))
    assert block.ids_T == (KIND, *(token for line in ("a", "zz", "b") for token in TOKENIZER.encode(line)))


def test_the_line_set_goes_from_the_commonest_line_to_the_rarest_each_once() -> None:
    line_set = of("line_set", cut(["rare", "new", "common", "rare"], frequencies("common", "mid", "rare"), context=80))[
        0
    ]
    texts = ["common", "rare", "new"]
    assert line_set.ids_T == (KIND, LINE_SET, *(token for line in texts for token in TOKENIZER.encode(line)), END)


def test_a_separator_stands_before_each_line_and_is_nobodys() -> None:
    found = cut(["a", "b"], frequencies("a", "b"), Passes(separator=True, tail_lines=9))
    for window in found:
        assert window.ids_T.count(LOG) == 2
        assert all(whose == NOBODY for token, whose in zip(window.ids_T, window.line_T, strict=True) if token == LOG)


def test_the_tail_is_the_end_after_as_many_of_the_last_lines_as_are_wanted_and_fit() -> None:
    lines = [f"l{n}" for n in range(100)]
    known = frequencies(*lines)
    everything = [token for line in lines for token in TOKENIZER.encode(line)]
    (full,) = of("tail", cut(lines, known, Passes(tail_lines=90)))
    assert full.ids_T[-1] == END
    assert set(full.line_T[:-1]) == {NOBODY}
    assert list(full.ids_T[1:-1]) == everything[-len(full.ids_T[1:-1]) :]
    assert 30 < len(full.ids_T) <= 40
    (short,) = of("tail", cut(lines, known, Passes(tail_lines=2)))
    assert list(short.ids_T[1:-1]) == [token for line in lines[-2:] for token in TOKENIZER.encode(line)]
    assert not of("tail", cut(lines, known, Passes(tail_lines=0)))


@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=60),
    context=st.integers(20, 80),
    passes=st.builds(
        Passes,
        block_lines=st.integers(1, 20),
        tail_lines=st.integers(0, 30),
        line_set=st.booleans(),
        isolate_unseen=st.booleans(),
        separator=st.booleans(),
    ),
)
def test_each_line_and_each_distinct_line_is_scored_exactly_once_within_the_context(
    lengths: list[tuple[int, bool]], context: int, passes: Passes
) -> None:
    lines = ["x" * length for length, _ in lengths]
    known = frequencies(*("x" * length for length, is_known in lengths if is_known))
    found = cut(lines, known, passes, context)
    assert all(len(window.ids_T) == len(window.line_T) <= context for window in found)
    assert len(of("tail", found)) == (passes.tail_lines > 0)
    for part, expected in (("lines", lines), ("line_set", known.line_set(lines) if passes.line_set else [])):
        scored: dict[int, list[int]] = {}
        for window in of(part, found):
            for token, whose in zip(window.ids_T, window.line_T, strict=True):
                if whose >= 0:
                    scored.setdefault(whose, []).append(token)
        assert scored == {index: list(TOKENIZER.encode(line)) for index, line in enumerate(expected)}
    ends = [window.part for window in found if END_OF_SESSION in window.line_T]
    assert ends == ["tail"] * (passes.tail_lines > 0) + ["line_set"] * passes.line_set


def test_a_context_that_cannot_hold_a_line_is_refused() -> None:
    with pytest.raises(ValueError, match="context of 19"):
        cut(["a"], frequencies("a"), context=19)
