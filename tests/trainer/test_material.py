"""What of a session is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.sequence import Passes
from trainer.material import DISTINCT_LINE, END, GIVEN, LINE, SEPARATOR, Packed, fit_tokenizer, make_material
from trainer.settings import TokenizerSettings

if TYPE_CHECKING:
    from loggpt_stream.model.tokenizer import LineTokenizer


_PASSES = Passes()


@pytest.fixture(scope="module")
def tokenizer(sessions: list[Session]) -> LineTokenizer:
    return fit_tokenizer(
        sessions, TokenizerSettings(vocabulary_size=700, piece_vocabulary_size=300, max_line_tokens=16)
    )


def packed(
    sessions: list[Session], tokenizer: LineTokenizer, context_tokens: int = 128, passes: Passes = _PASSES
) -> Packed:
    return make_material(sessions, sessions[:1], tokenizer, context_tokens, passes=passes).train


def test_every_line_token_and_every_end_is_learned_exactly_once(
    sessions: list[Session], tokenizer: LineTokenizer
) -> None:
    # A context so short that most sessions take several windows.
    found = packed(sessions, tokenizer, 32, Passes(tail_lines=20, separator=True))
    assert found.windows > 3 * len(sessions)
    learned = found.ids_N[found.role_N == LINE].tolist()
    assert learned == [i for session in sessions for text in session.texts for i in tokenizer.encode(text)]
    ends = found.ids_N[found.role_N == END].tolist()
    assert ends == [tokenizer.end_id] * (2 * len(sessions))  # of the tail and of the line set
    in_line_sets = sum(len(set(session.texts)) for session in sessions)
    assert found.lines == sum(len(session.lines) for session in sessions)
    separators = found.ids_N[found.role_N == SEPARATOR].tolist()
    assert separators == [tokenizer.log_id] * (found.lines + in_line_sets)
    distinct = int((found.role_N == DISTINCT_LINE).sum())
    assert distinct == sum(len(tokenizer.encode(text)) for session in sessions for text in set(session.texts))
    assert found.tokens == len(learned) + len(ends) + len(separators) + distinct


def test_of_a_long_sessions_tail_only_the_end_is_learned(tokenizer: LineTokenizer) -> None:
    lines = [Line(float(n), n, "INFO nova.compute.manager VM Started", "", "raw") for n in range(60)]
    session = Session("s", "instance", 0.0, 60.0, 0, lines=lines)
    found = packed([session] * 2, tokenizer, 40, Passes(tail_lines=60, line_set=False))
    tail_roles = found.role_N[found.starts_W[-2] : found.starts_W[-1]].tolist()
    assert len(tail_roles) > 30
    assert tail_roles == [GIVEN] * (len(tail_roles) - 1) + [END]
    assert found.learned_W[-1] == 1
    assert found.lines_W[-1] == 0


def test_padding_and_the_first_token_are_not_learned(sessions: list[Session], tokenizer: LineTokenizer) -> None:
    found = packed(sessions, tokenizer)
    short, long = int(found.lengths_W.argmin()), int(found.lengths_W.argmax())
    ids_BT, role_BT = found.rows([short, long], tokenizer.pad_id)
    length = int(found.lengths_W[short])
    assert ids_BT.shape == role_BT.shape == (2, int(found.lengths_W[long]))
    assert set(role_BT[0, length:].tolist()) == {GIVEN}
    assert set(ids_BT[0, length:].tolist()) == {tokenizer.pad_id}
    assert role_BT[:, 0].tolist() == [GIVEN, GIVEN]
    given = 2 if int(ids_BT[0, 1]) == tokenizer.line_set_id else 1
    assert GIVEN not in role_BT[0, given:length].tolist()


def test_the_same_data_has_the_same_id_and_other_data_another(
    sessions: list[Session], tokenizer: LineTokenizer
) -> None:
    first, again, other = (
        make_material(train, sessions[:5], tokenizer, 128).data_id() for train in (sessions, sessions, sessions[1:])
    )
    assert first == again != other
