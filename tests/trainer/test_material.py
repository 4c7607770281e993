"""What of a session is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.sequence import Passes
from tests.trainer.conftest import cutter
from trainer.material import (
    DIGEST_END,
    DIGEST_LINE,
    END,
    GIVEN,
    LINE,
    SEPARATOR,
    Packed,
    count_lines,
    fit_tokenizer,
    make_material,
)
from trainer.settings import TokenizerSettings

if TYPE_CHECKING:
    from loggpt_stream.model.tokenizer import LineTokenizer

USUAL = Passes()


@pytest.fixture(scope="module")
def tokenizer(sessions: list[Session]) -> LineTokenizer:
    return fit_tokenizer(
        sessions, TokenizerSettings(vocabulary_size=700, piece_vocabulary_size=300, max_line_tokens=16)
    )


def packed(
    sessions: list[Session], tokenizer: LineTokenizer, context_tokens: int = 128, passes: Passes = USUAL
) -> Packed:
    cut = cutter(count_lines(sessions), tokenizer, context_tokens, passes)
    return make_material(sessions, sessions[:1], tokenizer, cut).train


@pytest.mark.parametrize("separator", [False, True])
def test_every_line_token_digest_token_and_end_is_learned_exactly_once(
    sessions: list[Session], tokenizer: LineTokenizer, separator: bool
) -> None:
    # A context so short that most sessions take several windows in each pass.
    found = packed(sessions, tokenizer, context_tokens=32, passes=Passes(separator=separator))
    assert found.windows > 3 * len(sessions)
    books = count_lines(sessions)
    learned = found.ids_N[found.role_N == LINE].tolist()
    assert learned == [i for session in sessions for text in session.texts for i in tokenizer.encode(text)]
    digests = [books[session.kind].digest(session.texts) for session in sessions]
    in_digests = found.ids_N[found.role_N == DIGEST_LINE].tolist()
    assert in_digests == [i for digest in digests for text in digest for i in tokenizer.encode(text)]
    for end in (END, DIGEST_END):
        assert found.ids_N[found.role_N == end].tolist() == [tokenizer.end_id] * len(sessions)
    separators = found.ids_N[found.role_N == SEPARATOR].tolist()
    lines = sum(len(session.lines) for session in sessions)
    assert separators == [tokenizer.log_id] * (lines + sum(map(len, digests))) * separator
    assert found.lines == lines
    assert found.tokens == len(learned) + len(in_digests) + 2 * len(sessions) + len(separators)


def test_without_the_digest_pass_only_lines_and_ends_are_learned(
    sessions: list[Session], tokenizer: LineTokenizer
) -> None:
    found = packed(sessions, tokenizer, passes=Passes(digest=False))
    assert set(found.role_N.tolist()) == {GIVEN, LINE, END}


def test_of_a_long_sessions_tail_only_the_end_is_learned(tokenizer: LineTokenizer) -> None:
    lines = [Line(float(n), n, "INFO nova.compute.manager VM Started", "", "raw") for n in range(60)]
    long = [Session("s", "instance", 0.0, 60.0, 0, lines=lines)] * 2
    found = packed(long, tokenizer, context_tokens=40, passes=Passes(digest=False))
    tail_roles = found.role_N[found.starts_W[-2] : found.starts_W[-1]].tolist()
    assert len(tail_roles) > 30
    assert tail_roles == [GIVEN] * (len(tail_roles) - 1) + [END]
    assert found.learned_W[-1] == 1
    assert found.lines_W[-1] == 0


def test_a_digests_lines_are_learned_and_are_no_lines_of_the_log(tokenizer: LineTokenizer) -> None:
    lines = [Line(float(n), n, f"INFO nova.compute.manager VM {n % 2}", "", "raw") for n in range(6)]
    found = packed([Session("s", "instance", 0.0, 60.0, 0, lines=lines)], tokenizer)
    assert found.lines_W.tolist() == [6, 0, 0]  # block, tail, digest
    roles = found.role_N[found.starts_W[-2] :].tolist()
    assert roles[:2] == [GIVEN, GIVEN]
    assert roles[2:] == [DIGEST_LINE] * (len(roles) - 3) + [DIGEST_END]


def test_padding_and_the_first_tokens_are_not_learned(sessions: list[Session], tokenizer: LineTokenizer) -> None:
    found = packed(sessions, tokenizer)
    blocks = (found.lines_W > 0).nonzero()[:, 0]
    of_blocks = found.lengths_W[blocks]
    short, long = int(blocks[of_blocks.argmin()]), int(blocks[of_blocks.argmax()])
    ids_BT, role_BT = found.rows([short, long], tokenizer.pad_id)
    length = int(found.lengths_W[short])
    assert ids_BT.shape == role_BT.shape == (2, int(found.lengths_W[long]))
    assert set(role_BT[0, length:].tolist()) == {GIVEN}
    assert set(ids_BT[0, length:].tolist()) == {tokenizer.pad_id}
    assert role_BT[:, 0].tolist() == [GIVEN, GIVEN]
    assert GIVEN not in role_BT[0, 1:length].tolist()
    assert found.ids_N[found.role_N == GIVEN].tolist().count(tokenizer.digest_id) == len(sessions)


def test_the_same_data_has_the_same_digest_and_other_data_another(
    sessions: list[Session], tokenizer: LineTokenizer
) -> None:
    cut = cutter(count_lines(sessions), tokenizer)
    first, again, other = (
        make_material(train, sessions[:5], tokenizer, cut).digest() for train in (sessions, sessions, sessions[1:])
    )
    assert first == again != other
