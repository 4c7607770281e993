"""Which sessions are learned from and which are held out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from loggpt_stream.errors import UserError
from loggpt_stream.history.corpus import Corpus
from loggpt_stream.lines.session import Line, Session
from trainer.data import read_history, split_history
from trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from pathlib import Path


def session(name: str, opened_s: float, **more: Any) -> Session:
    line = Line(opened_s, int(opened_s), "INFO nova.compute.manager VM Started", "", "raw")
    return Session(name, "instance", opened_s, opened_s, int(opened_s), lines=[line], **more)


def settings(**more: Any) -> TrainerSettings:
    return TrainerSettings(inputs=["-"], **more)


def keys(sessions: list[Session]) -> list[str]:
    return [each.key for each in sessions]


def test_the_latest_sessions_are_held_out_by_default() -> None:
    corpus = Corpus([session(f"s{n:02}", 1000.0 + n) for n in reversed(range(40))])
    split = split_history(corpus, settings())
    assert keys(split.train) == [f"s{n:02}" for n in range(32)]
    assert keys(split.validation) == [f"s{n:02}" for n in range(32, 40)]


def test_random_validation_is_drawn_by_the_seed_and_not_by_time() -> None:
    corpus = Corpus([session(f"s{n:02}", 1000.0 + n) for n in range(40)])
    first, again, other = (
        split_history(corpus, settings(validation="random", seed=seed)).validation for seed in (1, 1, 2)
    )
    assert keys(first) == keys(again) != keys(other)
    assert len(first) == 8
    assert keys(first) != [f"s{n:02}" for n in range(32, 40)]


@pytest.mark.parametrize("validation", ["latest", "random"])
def test_a_group_is_never_on_both_sides(validation: str) -> None:
    # Seven runs, each with instances that open from the first minute to the last.
    corpus = Corpus([session(f"s{n:02}", 1000.0 + n, group=f"run{n % 7}") for n in range(42)])
    split = split_history(corpus, settings(validation=validation))
    train, held_out = ({each.group for each in side} for side in (split.train, split.validation))
    assert train
    assert held_out
    assert not train & held_out


@pytest.mark.parametrize("validation", ["latest", "random"])
def test_the_parts_of_one_session_stay_together(validation: str) -> None:
    corpus = Corpus([session(f"s{n % 10}", 1000.0 + n, part=n // 10) for n in range(40)])
    split = split_history(corpus, settings(validation=validation))
    assert not set(keys(split.train)) & set(keys(split.validation))
    assert len(split.train) + len(split.validation) == 40


@pytest.mark.parametrize("validation", ["latest", "random"])
def test_a_label_column_names_the_groups(tmp_path: Path, validation: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,test\n" + "".join(f"s{n:02},t{n % 5}\n" for n in range(40)))
    corpus = Corpus([session(f"s{n:02}", 1000.0 + n) for n in range(40)])
    split = split_history(corpus, settings(labels=labels, group_column="test", validation=validation))
    train, held_out = ({int(key[1:]) % 5 for key in keys(side)} for side in (split.train, split.validation))
    assert len(train) == 4
    assert len(held_out) == 1
    assert not train & held_out


def test_late_sessions_and_those_that_labels_leave_out_are_counted_and_not_learned(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    rows = [f"s{n:02},{'train' if n < 50 else 'test'},{int(n % 10 == 0)}\n" for n in range(60)]
    labels.write_text("id,split,failed\n" + "".join(rows))
    corpus = Corpus([session(f"s{n:02}", 1000.0 + n, late=n == 1) for n in range(70)])
    split = split_history(corpus, settings(labels=labels, select={"split": "train"}, exclude={"failed": "1"}))
    assert split.left_out == Counter({"late": 1, "not selected": 20, "excluded": 5})
    learned = keys(split.train) + keys(split.validation)
    assert learned == [f"s{n:02}" for n in range(50) if n != 1 and n % 10]


def test_sessions_without_a_label_are_kept_where_labels_only_exclude(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,failed\ns00,1\n")
    split = split_history(
        Corpus([session(f"s{n:02}", 1000.0 + n) for n in range(40)]), settings(labels=labels, exclude={"failed": "1"})
    )
    assert len(split.train) + len(split.validation) == 39


def test_a_column_that_the_labels_lack_is_named_with_those_they_have(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,failed\ns00,1\n")
    with pytest.raises(UserError, match=r"no column 'splitt'; there are id, failed"):
        split_history(Corpus([session("s00", 1.0)]), settings(labels=labels, select={"splitt": "train"}))


def test_too_few_sessions_are_refused_with_what_was_left_out() -> None:
    corpus = Corpus([session(f"s{n:02}", 1000.0 + n, late=n > 18) for n in range(30)])
    with pytest.raises(UserError, match=r"19 sessions .* too few \(of 30 read; left out: 11 late\)"):
        split_history(corpus, settings())


def test_one_group_alone_cannot_be_split() -> None:
    corpus = Corpus([session(f"s{n:02}", 1000.0 + n, group="run") for n in range(30)])
    with pytest.raises(UserError, match="30 sessions belong to 1 groups"):
        split_history(corpus, settings())


def test_groups_that_are_too_uneven_are_refused() -> None:
    corpus = Corpus([session(f"s{n:02}", 1000.0 + n, group="early" if n < 4 else "late") for n in range(30)])
    with pytest.raises(UserError, match=r"2 groups, too few or too uneven .* 4 would be left to learn from"):
        split_history(corpus, settings())


def test_nothing_left_to_learn_from_is_refused_however_much_is_to_be_held_out() -> None:
    corpus = Corpus([session(f"s{n:02}", 1000.0 + n, group="run") for n in range(30)])
    with pytest.raises(UserError, match=r"1 groups, too few .* 0 would be left to learn from"):
        split_history(corpus, settings(validation_fraction=0.5))


def test_the_windows_of_one_host_and_service_can_be_on_both_sides() -> None:
    windows = [replace(session("cmp01/nova", 1000.0 + n), kind="window") for n in range(30)]
    split = split_history(Corpus(windows), settings())
    assert (len(split.train), len(split.validation)) == (24, 6)


def test_what_the_end_of_the_input_cut_off_is_left_out() -> None:
    whole = [session(f"s{n:02}", 1000.0 + n, close_reason="idle") for n in range(30)]
    ended = session("ended", 1031.0, close_reason="end_of_input", ending=True)
    cut = session("cut", 1032.0, close_reason="end_of_input")
    split = split_history(Corpus([*whole, ended, cut]), settings())
    assert split.left_out == Counter({"cut off by the end of the input": 1})
    assert "ended" in keys(split.validation)


def test_a_log_without_sessions_is_refused_with_the_keys_looked_for(tmp_path: Path) -> None:
    log = tmp_path / "other.log"
    log.write_text("2026-11-23 14:08:08.121 7120 INFO nova.virt.driver [-] Loading compute driver\n" * 3)
    with pytest.raises(
        UserError, match=r"no session in 3 records: 3 lines without a session key \(looked for: explicit, instance,"
    ):
        read_history(TrainerSettings(inputs=[str(log)]), lambda _: None)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"inputs": []}, "nothing to read"),
        ({"topic": "t"}, "read one or the other"),
        ({"to": "2026-01-01"}, "times of a topic"),
        ({"inputs": [], "topic": "t", "from": "2026-01-02", "to": "2026-01-01"}, "must be before to"),
        ({"select": {"split": "train"}}, "give labels too"),
        ({"model": {"width": 30, "heads": 4}}, "multiple of heads"),
        ({"model": {"context_tokens": 16}}, "at least tokenizer.max_line_tokens 32"),
        ({"tokenizer": {"piece_vocabulary_size": 263}}, "greater than or equal to 264"),
        ({"tokenizer": {"vocabulary_size": 300}}, "at least piece_vocabulary_size 1024"),
        ({"sessions": {"idle_gap_s": 0}}, "idle_gap_s: 0.0: must be greater than 0"),
        ({"sessions": {"key_order": ["uuid"]}}, "choose from explicit, instance"),
    ],
)
def test_settings_that_contradict_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainerSettings(**{"inputs": ["-"], **wrong})


def test_times_without_a_zone_are_utc() -> None:
    read = TrainerSettings.model_validate(
        {"topic": "t", "from": "2026-01-01T00:00:00", "to": "2026-01-01T03:00:00+02:00"}
    )
    assert read.from_time is not None
    assert read.to is not None
    assert read.to.timestamp() - read.from_time.timestamp() == 3600
