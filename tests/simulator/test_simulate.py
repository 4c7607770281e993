"""Simulated load: fresh, seeded, truthful, and the same to the decoder in every shipper's shape."""

from __future__ import annotations

import csv
from functools import cache
from typing import TYPE_CHECKING

import pytest

from loggpt_stream.commands.simulate import COMMAND
from loggpt_stream.errors import UserError
from loggpt_stream.history.corpus import Corpus, read_corpus
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.lines.rules import KEY_SOURCES, SessionRules
from loggpt_stream.lines.shapes import Shape
from loggpt_stream.simulator import simulate as making
from loggpt_stream.simulator.library import load_library
from loggpt_stream.simulator.shippers import SHIPPERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = "2026-03-01T00:00:00"


def simulate(folder: Path, *flags: str, sessions: int = 30, seed: int = 5) -> tuple[Path, list[dict[str, str]]]:
    """Return the file of records and the rows of truth beside it."""
    out = folder / f"load-{len(list(folder.iterdir()))}.log"
    common = ["--output", str(out), "--truth", f"{out}.csv", "--start", START, "--seed", str(seed)]
    assert COMMAND.main([*common, "--sessions", str(sessions), "--concurrency", "10", *flags]) == 0
    with (out.parent / f"{out.name}.csv").open() as stream:
        return out, list(csv.DictReader(stream))


def instances(file: Path, shape: Shape | None = None) -> Corpus:
    """Return the instance sessions; an explicit session id beside the line does not count."""
    rules = SessionRules(key_order=tuple(source for source in KEY_SOURCES if source != "explicit"))
    corpus = read_corpus([str(file)], rules, DEFAULT_RULES, shape=shape)
    corpus.sessions = [session for session in corpus.sessions if session.kind == "instance" and not session.late]
    return corpus


@pytest.fixture(scope="module", autouse=True)
def _recordings_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "load_library", cache(load_library))
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return instances(simulate(tmp_path_factory.mktemp("plain"))[0])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    one, same, other = (simulate(tmp_path, seed=seed)[0].read_bytes() for seed in (5, 5, 6))
    assert one == same
    assert one != other


def test_truth_names_exactly_the_sessions_that_the_pipeline_finds(tmp_path: Path) -> None:
    file, truth = simulate(tmp_path)
    found = instances(file).sessions
    assert len(truth) == 30
    assert {row["instance_uuid"] for row in truth} == {session.key for session in found}
    for session in found:
        (row,) = [row for row in truth if row["instance_uuid"] == session.key]
        assert float(row["started_at"]) - 1 <= session.lines[0].time_s <= float(row["ended_at"]) + 60


def test_ids_never_repeat_between_sessions_of_one_recording(tmp_path: Path) -> None:
    _, truth = simulate(tmp_path, "--splits", '["test"]', sessions=300)
    assert len({row["instance_uuid"] for row in truth}) == 300


@pytest.mark.parametrize("share", ["0", "1"])
def test_the_failure_share_is_what_was_asked(tmp_path: Path, share: str) -> None:
    _, truth = simulate(tmp_path, "--failure-share", share)
    assert {row["failed"] for row in truth} == {share}


def test_a_failure_share_between_is_met_within_chance(tmp_path: Path) -> None:
    _, truth = simulate(tmp_path, "--failure-share", "0.3", sessions=300)
    failed = sum(row["failed"] == "1" for row in truth)
    assert 90 - 4 * 8 <= failed <= 90 + 4 * 8


@pytest.mark.parametrize("name", sorted(SHIPPERS.keys() - {"plain"}))
def test_every_format_gives_the_same_sessions_and_texts(tmp_path: Path, plain: Corpus, name: str) -> None:
    # Background lines are of no session: with a session's id beside the lines, these have none.
    pin = SHIPPERS[name].shape if name != "session_json" else None
    in_format = instances(simulate(tmp_path, "--format", name)[0], pin)
    assert not in_format.reading.rejected
    texts = {session.key: session.texts for session in in_format.sessions}
    assert texts.keys() == {session.key for session in plain.sessions}
    different = [s.key for s in plain.sessions if s.texts != texts[s.key]]
    assert different == []


def test_there_is_a_format_for_every_shape_that_the_decoder_knows_but_nobodys_json() -> None:
    assert {shipper.shape for shipper in SHIPPERS.values()} == set(Shape) - {Shape.JSON}


def test_a_format_that_does_not_exist_is_refused_and_the_formats_are_listed() -> None:
    with pytest.raises(UserError, match="no such format; there are plain, loghub"):
        COMMAND.main(["--format", "syslog"])


@pytest.mark.parametrize("name", ["session_json", "shared"])
def test_the_explicit_id_of_the_json_with_a_session_is_the_instance(tmp_path: Path, name: str) -> None:
    file, truth = simulate(tmp_path, "--format", name)
    sessions = read_corpus([str(file)], SessionRules(), DEFAULT_RULES).sessions
    assert {s.key for s in sessions if s.kind == "explicit"} == {row["instance_uuid"] for row in truth}


def test_many_sessions_are_open_at_once_where_asked(tmp_path: Path) -> None:
    file, truth = simulate(tmp_path, "--no-background", sessions=60)
    middle = sorted(float(row["started_at"]) for row in truth)[30]
    assert sum(float(row["started_at"]) <= middle <= float(row["ended_at"]) for row in truth) == pytest.approx(
        10, abs=3
    )
    assert file.stat().st_size > 100_000
