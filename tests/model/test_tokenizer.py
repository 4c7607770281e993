"""Masked lines to ids: frequent lines whole, anything else in pieces, nothing special from log text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from loggpt_stream.model.tokenizer import SPECIAL_TOKENS, LineTokenizer, train_tokenizer
from testing.tiny_bundle import nova34

LINES = [text for session in nova34().sessions[:100] for text in session.texts]
TOKENIZER = LineTokenizer(train_tokenizer(LINES, vocabulary_size=800, piece_vocabulary_size=400), max_line_tokens=32)


def test_a_line_of_the_training_logs_is_one_token_and_reads_back() -> None:
    for line in set(LINES):
        (one,) = TOKENIZER.encode(line)
        assert TOKENIZER.tokenizer.decode([one]) == line


@given(st.text(max_size=200))
def test_any_text_has_ids_and_none_of_them_is_special(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert 1 <= len(ids) <= 32
    assert not set(ids) & {TOKENIZER.tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_log_text_that_spells_a_special_token_stays_text(token: str) -> None:
    ids = TOKENIZER.encode(f"INFO nova.api user {token} logged in")
    assert TOKENIZER.tokenizer.token_to_id(token) not in ids


def test_an_unseen_line_reads_back_from_its_pieces() -> None:
    long = LineTokenizer(TOKENIZER.tokenizer, max_line_tokens=10_000)
    line = "ERROR nova.compute.manager Wholly new: ünïcode and <n3> things"
    assert long.tokenizer.decode(list(long.encode(line))) == line
    assert len(long.encode(line)) > 1


def test_the_same_lines_give_the_same_tokenizer_in_any_order() -> None:
    def fitted(lines: list[str]) -> str:
        return str(train_tokenizer(lines, vocabulary_size=500, piece_vocabulary_size=300).to_str())

    assert fitted(LINES[:2000]) == fitted(LINES[:2000][::-1])


def test_sizes_are_bounds() -> None:
    assert TOKENIZER.vocabulary_size <= 800
    tight = train_tokenizer(LINES, vocabulary_size=300, piece_vocabulary_size=300)
    assert tight.get_vocab_size() <= 300
    with pytest.raises(ValueError, match="need 264"):
        train_tokenizer(LINES, vocabulary_size=200, piece_vocabulary_size=200)


def test_a_tokenizer_without_our_special_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="PAD"):
        LineTokenizer(Tokenizer(models.BPE()), max_line_tokens=4)
