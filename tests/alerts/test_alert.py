"""Alerts: valid against the shipped schema, stable ids, raw lines, hostile text kept harmless."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import jsonschema
import numpy as np
import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loggpt_stream.alerts.alert import AlertWriter, JudgedSession, Stage, schema
from loggpt_stream.lines.names import CloseReason, SessionKind
from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.calibration import Judge, Verdict
from loggpt_stream.model.detector import Detector
from loggpt_stream.model.session_score import SessionScore
from loggpt_stream.record_headers import ALERT_HEADERS, SCORE_FIELDS
from testing.tiny_bundle import nova34, tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loggpt_stream.model.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=1.0)


@pytest.fixture(scope="module")
def detector(bundle: Bundle) -> Detector:
    return Detector.load(bundle, torch.device("cpu"))


@pytest.fixture(scope="module")
def judged(bundle: Bundle) -> list[JudgedSession]:
    assert bundle.calibration
    sessions = nova34().sessions[200:300]
    scores = bundle.scorer(torch.device("cpu")).score(sessions)
    judge = Judge(bundle.calibration)
    return [
        JudgedSession("input", 3, session, score, judge.judge(session.kind, score.statistics))
        for session, score in zip(sessions, scores, strict=True)
    ]


def test_alerts_of_real_sessions_are_valid(detector: Detector, judged: list[JudgedSession]) -> None:
    writer = AlertWriter(detector, "prod")
    for each in judged:
        value = orjson.loads(writer.alert(each, created_s=1.8e9).value)
        jsonschema.validate(value, schema())
        assert value["cloud"].get("instance", {}).get("id") == (
            each.session.key if each.session.kind == "instance" else None
        )


def test_the_schema_names_every_kind_and_close_reason_and_stage_that_there_is() -> None:
    about = schema()["properties"]["loggpt"]["properties"]
    session = about["session"]["properties"]
    assert session["kind"]["enum"] == list(SessionKind)
    assert session["close_reason"]["enum"] == [*CloseReason, None]
    assert about["stage"]["enum"] == list(get_args(Stage))


def test_the_schema_refuses_a_field_that_it_does_not_know(detector: Detector, judged: list[JudgedSession]) -> None:
    value: dict[str, Any] = orjson.loads(AlertWriter(detector, "prod").alert(judged[0], created_s=1.8e9).value)
    value["loggpt"]["invented"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema())


def test_an_alert_made_small_for_the_broker_is_valid_too(detector: Detector, judged: list[JudgedSession]) -> None:
    for each in judged[:20]:
        value = orjson.loads(AlertWriter(detector, "prod").alert(each, created_s=1.8e9, small=True).value)
        jsonschema.validate(value, schema())


def test_every_header_of_an_alert_and_every_field_of_a_score_is_in_the_reference(
    detector: Detector, judged: list[JudgedSession]
) -> None:
    traced = replace(judged[0], session=replace(judged[0].session, traceparent="00-0a-0b-01"))
    writer = AlertWriter(detector, "prod")
    assert [name for name, _ in writer.alert(traced, created_s=1.8e9).headers] == list(ALERT_HEADERS)
    assert list(orjson.loads(writer.score_record(traced).value)) == list(SCORE_FIELDS)


def test_headers_are_cloud_events_and_repeat_the_id(detector: Detector, judged: list[JudgedSession]) -> None:
    message = AlertWriter(detector, "prod").alert(judged[0], created_s=1.8e9)
    headers = dict(message.headers)
    assert headers["content-type"] == b"application/json"
    assert headers["ce_source"] == b"/loggpt-stream/prod"
    assert headers["ce_id"].decode() == orjson.loads(message.value)["event"]["id"]
    assert headers["ce_subject"] == headers["ce_partitionkey"] == message.key == judged[0].session.key.encode()


def test_an_id_does_not_depend_on_what_a_restart_forgets(detector: Detector, judged: list[JudgedSession]) -> None:
    one, writer = judged[0], AlertWriter(detector, "prod")
    as_part = replace(one, session=replace(one.session, part=3))
    next_in_record = replace(one, session=replace(one.session, first_index=1))
    assert writer.event_id(as_part) == writer.event_id(one) != writer.event_id(next_in_record)


def test_the_trace_context_that_came_in_goes_out_and_none_is_made_up(
    detector: Detector, judged: list[JudgedSession]
) -> None:
    one, writer = judged[0], AlertWriter(detector, "prod")
    traced = replace(one, session=replace(one.session, traceparent="00-0a-0b-01"))
    assert dict(writer.alert(traced, created_s=1.8e9).headers)["traceparent"] == b"00-0a-0b-01"
    assert "traceparent" not in dict(writer.alert(one, created_s=1.8e9).headers)


def test_an_id_is_the_same_for_the_same_session_and_differs_for_any_other(
    detector: Detector, judged: list[JudgedSession]
) -> None:
    writer = AlertWriter(detector, "prod")
    one = judged[0]
    later = replace(one, session=replace(one.session, first_offset=one.session.first_offset + 1))
    others = [replace(one, partition=4), replace(one, topic="other"), later, judged[1]]
    assert writer.event_id(one) == AlertWriter(detector, "prod").event_id(one)
    assert len({writer.event_id(each) for each in [one, *others]}) == 5


def test_top_lines_are_the_most_surprising_raw_lines_in_order(detector: Detector, judged: list[JudgedSession]) -> None:
    each = max(judged, key=lambda j: len(j.session.lines))
    top = orjson.loads(AlertWriter(detector, "prod").alert(each, created_s=1.8e9).value)["loggpt"]["top_lines"]
    losses = sorted(each.score.line_losses_L.tolist(), reverse=True)[:5]
    assert [line["loss"] for line in top] == pytest.approx(losses)
    raw = {line.offset: line.raw for line in each.session.lines}
    assert all(raw[line["source"]["offset"]] == line["text"] for line in top)
    assert all(sum(line["token_losses"]) == pytest.approx(line["loss"], abs=0.01) for line in top)


@pytest.mark.slow
@given(
    text=st.text(max_size=200),
    times_s=st.tuples(st.floats(-1e15, 1e15), st.floats(-1e15, 1e15)),
    key=st.text(min_size=1, max_size=50),
)
def test_any_text_times_and_key_give_a_valid_alert(
    detector: Detector, text: str, times_s: tuple[float, float], key: str
) -> None:
    try:
        (text + key).encode()
    except UnicodeEncodeError:  # the decoder yields no lone surrogates
        return
    lines = [Line(time_s, offset, "x", "", text) for offset, time_s in enumerate(times_s)]
    session = Session(key, "explicit", *times_s, 0, lines=lines)
    session.close_reason = "idle"
    score = SessionScore(np.array([2.0, 1.0]), [np.array([2.0]), np.array([1.0])], {"mean_line_loss": 1.5})
    deciding = {"max_line_loss": 1.0, "unseen_lines": 1.0, "absent_lines": 0.9, "digest_loss": 0.8}
    verdict = Verdict(combination="everything", score=2.0, threshold=1.0, p_value=0.1, surprises=deciding)
    message = AlertWriter(detector, "prod").alert(JudgedSession("t", 0, session, score, verdict), created_s=0.0)
    jsonschema.validate(orjson.loads(message.value), schema())


def flagged(bundle: Bundle, detector: Detector, texts: Sequence[str]) -> tuple[dict[str, Any], Session]:
    """Return the alert of a real instance session with these lines put in its middle, and half of its own gone."""
    assert bundle.calibration
    original = next(each for each in nova34().sessions[200:300] if each.kind == "instance" and len(each.lines) > 20)
    kept = original.lines[: len(original.lines) // 2]
    strange = [Line(kept[-1].time_s, 77_000 + n, text, "", f"raw {text}") for n, text in enumerate(texts)]
    session = replace(original, lines=[*kept, *strange])
    (score,) = bundle.scorer(torch.device("cpu")).score([session])
    verdict = Judge(bundle.calibration).judge("instance", score.statistics)
    value = orjson.loads(
        AlertWriter(detector, "prod").alert(JudgedSession("in", 3, session, score, verdict), 1.8e9).value
    )
    jsonschema.validate(value, schema())
    return value, session


def test_a_line_that_is_absent_is_listed_as_absent_with_the_share_of_sessions_that_have_it(
    bundle: Bundle, detector: Detector
) -> None:
    value, session = flagged(bundle, detector, [])
    frequencies = bundle.line_frequencies()["instance"]
    absent = value["loggpt"]["absent_lines"]
    assert absent
    for each in absent:
        assert each["text"] not in session.texts
        assert each["share"] == pytest.approx(frequencies.frequency(each["text"]) / frequencies.sessions, abs=1e-4)
        assert each["share"] >= 0.5
    assert [each["share"] for each in absent] == sorted((each["share"] for each in absent), reverse=True)


def test_lines_that_no_training_session_has_are_listed_raw_with_their_offset(
    bundle: Bundle, detector: Detector
) -> None:
    value, _ = flagged(bundle, detector, ["ERROR never.seen once", "ERROR never.seen twice", "ERROR never.seen once"])
    unseen = [each for each in value["loggpt"]["unseen_lines"] if each["source"]["offset"] >= 77_000]
    assert [(each["text"], each["source"]["offset"]) for each in unseen] == [
        ("raw ERROR never.seen once", 77_000),
        ("raw ERROR never.seen twice", 77_001),
    ]


def test_the_reason_names_what_decided_with_its_line_and_its_share_of_the_score(
    bundle: Bundle, detector: Detector
) -> None:
    value, _ = flagged(bundle, detector, [f"ERROR never.seen {n}" for n in range(30)])
    told = value["loggpt"]
    decided = told["decided_by"]
    assert "unseen_lines" in decided
    assert decided == sorted(decided, key=lambda name: -told["surprises"][name])
    assert all(told["surprises"][name] >= max(told["surprises"].values()) / 3 for name in decided)
    assert sum(told["surprises"].values()) == pytest.approx(told["score"])
    assert "it has lines never seen in training" in value["event"]["reason"]
    assert 'raw ERROR never.seen 0"' in value["event"]["reason"]
    assert f"{told['surprises']['unseen_lines']:.1f} nats" in value["event"]["reason"]
