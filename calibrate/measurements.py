"""What a model makes of sessions, measured: losses of tokens, tokens of lines, and which sessions it knows already.

`calibrate.diagnosis` judges these measurements.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from calibrate.curves import SAME_SCORE_DIGITS
from calibrate.evaluation import groups_of
from calibrate.sessions import content_of, printable
from loggpt_stream.model.tokenizer import SPECIAL_TOKENS, LineTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loggpt_stream.history.labels import Labels
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.session_score import SessionScore

# Lines that came so often, behind so many different ones, show whether the model reads them in their context.
_OFTEN: Final = 5
_BEFORE: Final = 3
# A line that costs less than this is certain everywhere: its losses may well agree to the digit.
_CERTAIN_NATS: Final = 0.01
_UNCUT: Final = 2**31
_SPLIT: Final = "split"
_TRAINED: Final = "trained on"
_NOT_TRAINED: Final = "not trained on"


@dataclass(frozen=True, slots=True)
class LossProfile:
    """Losses of the tokens of some sessions, in nats.

    lines: how many distinct masked lines they make up. vocabulary_size: the size of the model's choice at each token.
    recurring, unmoved: distinct lines that came often behind different lines and cost something, and those of them that
    cost the same each time.
    """

    losses_N: np.ndarray = field(repr=False)
    lines: int
    vocabulary_size: int
    recurring: int
    unmoved: int

    @classmethod
    def of(cls, sessions: Sequence[Session], scores: Sequence[SessionScore], vocabulary_size: int) -> LossProfile:
        """Return the profile of scored sessions."""
        costs: defaultdict[str, list[float]] = defaultdict(list)
        before: defaultdict[str, set[str]] = defaultdict(set)
        for session, score in zip(sessions, scores, strict=True):
            texts = session.texts
            for i, text in enumerate(texts):
                costs[text].append(float(score.line_losses_L[i]))
                before[text].add(texts[i - 1] if i else "")
        recurring = [text for text in costs if len(costs[text]) >= _OFTEN and len(before[text]) >= _BEFORE]
        recurring = [text for text in recurring if np.median(costs[text]) > _CERTAIN_NATS]
        unmoved = sum(len({same_score(loss) for loss in costs[text]}) == 1 for text in recurring)
        losses_N = np.concatenate([losses for score in scores for losses in score.token_losses])
        return cls(losses_N, len(costs), vocabulary_size, len(recurring), unmoved)

    @property
    def guessing(self) -> float:
        """Return what a token costs a model that knows nothing, in nats."""
        return math.log(self.vocabulary_size)


@dataclass(frozen=True, slots=True)
class LineMeasurements:
    """How lines become tokens. Lines count as often as they occur, `distinct_lines` once.

    whole_tokens: how many tokens of the vocabulary are whole lines. full: whether training had more lines than room
    for them (None: the bundle does not say). in_pieces: lines that are no token of their own. cut: lines longer than
    `max_line_tokens`. lengths_D: uncut tokens of each distinct line, with how often it occurs in times_D. cut_example:
    the cut line that occurs most. sessions, alike: distinct sessions, and those of them with the very tokens of another
    distinct one.
    """

    vocabulary_size: int
    whole_tokens: int
    full: bool | None
    max_line_tokens: int
    lines: int
    distinct_lines: int
    in_pieces: int
    cut: int
    lengths_D: np.ndarray = field(repr=False)
    times_D: np.ndarray = field(repr=False)
    cut_example: str
    pieces_example: str
    sessions: int
    alike: int

    @classmethod
    def of(cls, sessions: Sequence[Session], tokenizer: LineTokenizer, training: Mapping[str, Any]) -> LineMeasurements:
        """Return the measurements of `sessions`. `training`: what the trainer wrote about itself."""
        times = Counter(text for session in sessions for text in session.texts)
        uncut = LineTokenizer(tokenizer.tokenizer, max_line_tokens=_UNCUT)
        lengths = {text: len(uncut.encode(text)) for text in times}
        cut = {text: count for text, count in times.items() if lengths[text] > tokenizer.max_line_tokens}
        pieces = {text: count for text, count in times.items() if lengths[text] > 1}
        distinct = {content_of(session): session for session in sessions}.values()
        tokens = Counter((each.kind, tuple(map(tokenizer.encode, each.texts))) for each in distinct)
        whole = _whole_tokens(tokenizer)
        return cls(
            vocabulary_size=tokenizer.vocabulary_size,
            whole_tokens=whole,
            full=_is_full(training, tokenizer.vocabulary_size, whole),
            max_line_tokens=tokenizer.max_line_tokens,
            lines=times.total(),
            distinct_lines=len(times),
            in_pieces=sum(pieces.values()),
            cut=sum(cut.values()),
            lengths_D=np.array(list(lengths.values())),
            times_D=np.array([times[text] for text in lengths]),
            cut_example=max(cut, key=cut.__getitem__, default=""),
            pieces_example=max(pieces, key=pieces.__getitem__, default=""),
            sessions=len(distinct),
            alike=sum(count for count in tokens.values() if count > 1),
        )


@dataclass(frozen=True, slots=True)
class Leakage:
    """Which sessions of the input the bundle knows already.

    known: keys by role (`train`, `validation`, `calibration`). trained_here: sessions in the whole input that the model
    learned from. alike: of the `others` that it did not learn from, how many read like one of those. groups: what has
    sessions on both sides, with the sides.
    """

    sessions: int
    known: dict[str, list[str]]
    trained_here: int
    others: int
    alike: int
    groups: dict[str, str]


@dataclass(frozen=True, slots=True)
class CommonCause:
    """What the most surprising lines of sessions with one score have in common.

    sessions, agreeing: how many were scored again, and how many of them have this line and token as their worst. line:
    masked text of one. raw: as an operator would see it. texts: how many different lines are these same tokens. places:
    first and last line number (from 1). token: as text; token_place (from 1) of line_tokens, which were uncut_tokens.
    line_loss, token_loss: nats, the median of those that agree. alike: all are the same tokens from end to end.
    """

    sessions: int
    agreeing: int
    line: str
    raw: str
    texts: int
    places: tuple[int, int]
    token: str
    token_place: int
    line_tokens: int
    uncut_tokens: int
    line_loss: float
    token_loss: float
    alike: bool


def same_score(score: float) -> float:
    """Return what is equal where two scores are one score."""
    return float(f"{score:.{SAME_SCORE_DIGITS}g}")


def find_leakage(
    selected: Sequence[Session],
    whole_input: Sequence[Session],
    used: Mapping[str, np.ndarray],
    labels: Labels | None,
    group_column: str | None,
) -> Leakage:
    """Compare the selected sessions with those that the bundle was made with (`used`: fingerprints by role).

    The bundle keeps no text, so what training sessions read like is known only of those in `whole_input`.
    """
    prints = {role: set(of_role.tolist()) for role, of_role in used.items()}
    known = {
        role: [f"{each.kind} {printable(each.key)}" for each in selected if each.fingerprint() in of_role]
        for role, of_role in prints.items()
    }
    trained = [each for each in whole_input if each.fingerprint() in prints["train"]]
    learned = {content_of(each) for each in trained}
    others = [each for each in selected if each.fingerprint() not in prints["train"]]
    return Leakage(
        sessions=len(selected),
        known=known,
        trained_here=len(trained),
        others=len(others),
        alike=sum(content_of(each) in learned for each in others),
        groups=_groups_on_both_sides(others, whole_input, prints["train"], labels, group_column),
    )


def common_cause(sessions: Sequence[Session], scores: Sequence[SessionScore], tokenizer: LineTokenizer) -> CommonCause:
    """Return the line and token that most of the sessions have as their most surprising."""
    worst = [int(np.argmax(score.line_losses_L)) for score in scores]
    tokens = [int(np.argmax(score.token_losses[i])) for score, i in zip(scores, worst, strict=True)]
    lines = [session.lines[i] for session, i in zip(sessions, worst, strict=True)]
    what = [(tokenizer.encode(line.text), token) for line, token in zip(lines, tokens, strict=True)]
    ((ids, place), agreeing) = Counter(what).most_common(1)[0]
    these = [i for i, each in enumerate(what) if each == (ids, place)]
    first = lines[these[0]]
    return CommonCause(
        sessions=len(sessions),
        agreeing=agreeing,
        line=first.text,
        raw=first.raw,
        texts=len({lines[i].text for i in these}),
        places=(min(worst[i] for i in these) + 1, max(worst[i] for i in these) + 1),
        token=tokenizer.tokenizer.decode([ids[place]], skip_special_tokens=False),
        token_place=place + 1,
        line_tokens=len(ids),
        uncut_tokens=len(LineTokenizer(tokenizer.tokenizer, max_line_tokens=_UNCUT).encode(first.text)),
        line_loss=float(np.median([scores[i].line_losses_L[worst[i]] for i in these])),
        token_loss=float(np.median([scores[i].token_losses[worst[i]][place] for i in these])),
        alike=len({tuple(map(tokenizer.encode, session.texts)) for session in sessions}) == 1,
    )


def _groups_on_both_sides(
    others: Sequence[Session],
    whole_input: Sequence[Session],
    trained: set[int],
    labels: Labels | None,
    group_column: str | None,
) -> dict[str, str]:
    """Return the groups of `others` that have sessions elsewhere, with the sides in words."""
    groups = groups_of(whole_input, labels, group_column)
    sides: defaultdict[str, set[str]] = defaultdict(set)
    for session in whole_input:
        row = labels.row(session) if labels else None
        split = row.get(_SPLIT, "") if row else ""
        side = f"{_SPLIT}={printable(split)}" if split else _NOT_TRAINED
        sides[groups[session.fingerprint()]].add(_TRAINED if session.fingerprint() in trained else side)
    here = sorted({groups[session.fingerprint()] for session in others})
    return {group: " and ".join(sorted(sides[group])) for group in here if _apart(sides[group])}


def _apart(sides: set[str]) -> bool:
    """Tell whether a group is on two sides; what is labelled split=train was left out of training, not held out."""
    split = {_TRAINED if side == f"{_SPLIT}=train" else side for side in sides}
    return len(split - {_NOT_TRAINED}) > 1 or sides >= {_TRAINED, _NOT_TRAINED}


def _whole_tokens(tokenizer: LineTokenizer) -> int:
    """Return how many tokens are whole lines: those that are no byte, no merge and no special token."""
    model = orjson.loads(tokenizer.tokenizer.to_str())["model"]
    merged = {"".join(pair) for pair in model["merges"]}
    return sum(len(token) > 1 and token not in merged and token not in SPECIAL_TOKENS for token in model["vocab"])


def _is_full(training: Mapping[str, Any], vocabulary_size: int, whole_tokens: int) -> bool | None:
    """Tell whether the vocabulary had no room for all training lines, from what the trainer stated, if it did."""
    settings, distinct = training.get("tokenizer"), training.get("distinct_lines")
    room = settings.get("vocabulary_size") if isinstance(settings, dict) else None
    if not isinstance(room, int):
        return None
    return vocabulary_size >= room and not (isinstance(distinct, int) and distinct <= whole_tokens)
