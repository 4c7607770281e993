"""Which recorded sessions take part, and how they are scored."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from calibrate.sessions import score_sessions, select
from loggpt_stream.history.corpus import Corpus
from loggpt_stream.history.labels import Labels
from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.bundle import load_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.calibrate.conftest import Recording


def session(key: str, *, text: str = "INFO nova.compute.manager VM Started", **more: object) -> Session:
    found = Session(key, "instance", 1.0, 1.0, 0, lines=[Line(1.0, 0, text, "", "raw")])
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_what_the_end_of_the_input_cut_off_takes_part_only_with_a_label() -> None:
    corpus = Corpus([session("whole", close_reason="idle"), session("cut", close_reason="end_of_input")])
    corpus.sessions.append(session("ended", close_reason="end_of_input", ending=True))
    chosen = select(corpus, None, {})
    assert [each.key for each in chosen.sessions] == ["whole", "ended"]
    assert chosen.left_out == Counter({"cut off by the end of the input": 1})
    labels = Labels("labels.csv", ("id", "failed"), {"cut": {"id": "cut", "failed": "1"}})
    assert [each.key for each in select(corpus, labels, {}).sessions] == ["whole", "cut", "ended"]


def test_sessions_that_read_alike_have_one_score_to_the_last_digit(trained: Path) -> None:
    scorer = load_bundle(trained, calibrated=False).scorer(torch.device("cpu"))
    odd = [session(f"odd-{i}", text=f"INFO nova.compute.manager VM number {i} " + "x" * i) for i in range(20)]
    alike = [session(f"alike-{i}") for i in range(300)]
    scored = score_sessions([*alike[:150], *odd, *alike[150:]], scorer, None, "failed")
    assert [each.session.key for each in scored] == [each.key for each in [*alike[:150], *odd, *alike[150:]]]
    assert len({tuple(each.statistics.values()) for each in scored if each.session.key.startswith("alike")}) == 1
    assert len({each.content for each in scored}) == 21


def test_of_sessions_that_read_alike_each_has_its_own_times(trained: Path, recording: Recording) -> None:
    scorer = load_bundle(trained, calibrated=False).scorer(torch.device("cpu"))
    usual = max(recording.learned[:20], key=lambda each: len(each.lines))
    slow = replace(
        usual, lines=[replace(each, time_s=each.time_s + 9_000 * (i > 0)) for i, each in enumerate(usual.lines)]
    )
    one, other = score_sessions([usual, slow], scorer, None, "failed")
    assert one.content == other.content
    (alone,) = scorer.score([slow])
    assert other.statistics == alone.statistics
    assert other.statistics["untimely_line"] > one.statistics["untimely_line"]
    assert {**other.statistics, "untimely_line": 0.0} == {**one.statistics, "untimely_line": 0.0}
