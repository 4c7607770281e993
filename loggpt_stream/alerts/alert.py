"""A scored, anomalous session → the alert: ECS fields in the value, CloudEvents 1.0 (Kafka binding, binary) headers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import orjson

from loggpt_stream.alerts import evidence
from loggpt_stream.lines.names import SessionKind
from loggpt_stream.message import Message

if TYPE_CHECKING:
    from loggpt_stream.lines.session import Line, Session
    from loggpt_stream.model.calibration import Verdict
    from loggpt_stream.model.detector import Detector
    from loggpt_stream.model.session_score import SessionScore

ECS_VERSION: Final = "9.1.0"
CE_TYPE: Final = "io.loggpt.session.anomaly.v1"
DATA_SCHEMA: Final = "urn:loggpt-stream:alert:1"
TOP_LINES: Final = 5
_SMALL_CHARS: Final = 200

Stage = Literal["early", "final"]


@dataclass(frozen=True, slots=True)
class JudgedSession:
    """A session with its score and verdict, and the input partition it came from.

    stage: `early` where the session is still open, and `session` holds the lines so far. closed_at_s: when it closed,
    by the wall clock (epoch seconds).
    """

    topic: str
    partition: int
    session: Session
    score: SessionScore
    verdict: Verdict
    stage: Stage = "final"
    closed_at_s: float = 0.0

    @property
    def alarms(self) -> bool:
        """Tell whether this is to be alerted on. Nobody asks that anywhere else."""
        return self.verdict.anomalous


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the alert's value."""
    parsed: dict[str, Any] = orjson.loads(files("loggpt_stream.alerts").joinpath("alert.schema.json").read_bytes())
    return parsed


class AlertWriter:
    """Writes alerts and score records of one detector on one cloud."""

    def __init__(self, detector: Detector, cluster: str) -> None:
        """`cluster`: the cloud's name."""
        self._detector = detector
        self._model = detector.model_fingerprint
        self._calibration = detector.calibration_id
        self._cluster = cluster

    def event_id(self, judged: JudgedSession) -> str:
        """Return 32 hex digits, the same whenever this session is judged by this model: consumers deduplicate on it.

        An early alert has one of its own, which does not depend on how many lines there were.
        """
        session = judged.session
        parts = (judged.topic, judged.partition, session.kind, session.key, session.first_offset, session.first_index)
        name = "\0".join(map(str, (*parts, self._model, self._calibration, judged.stage)))
        return hashlib.sha256(name.encode()).hexdigest()[:32]

    def shown_lines(self, judged: JudgedSession) -> list[Line]:
        """Return the lines of which the alert shows the raw text."""
        session, score = judged.session, judged.score
        unseen = evidence.unseen_lines(session, self._detector.line_frequencies(session.kind))
        last = len(session.lines) - 1
        shown = {*_top(score), *unseen, last, score.untimely if score.untimely is not None else last}
        return [session.lines[index] for index in sorted(shown)]

    def alert(self, judged: JudgedSession, created_s: float, *, small: bool = False) -> Message:
        """Return the alert of an anomalous session. `created_s` is now (epoch seconds).

        A `small` one is of some ten kilobytes at most: for a broker that takes no more.
        """
        session, verdict = judged.session, judged.verdict
        event_id = self.event_id(judged)
        end_s = max(line.time_s for line in session.lines)
        reason = evidence.reason(session, judged.score, verdict, self._detector.line_frequencies(session.kind))
        name = f"{session.kind} {session.key}" + ("" if judged.stage == "final" else ", still open")
        value: dict[str, Any] = {
            "@timestamp": _iso(end_s),
            "message": f"Abnormal log session of {name}: {reason}",
            "ecs": {"version": ECS_VERSION},
            "event": _event(judged, event_id, reason, created_s),
            "rule": {
                "id": f"{self._model}/{self._calibration}",
                "name": f"loggpt {verdict.combination}",
                "version": self._calibration,
            },
            "cloud": {"provider": "openstack"},
            "labels": {"cluster": self._cluster, "session_kind": session.kind},
            "loggpt": self._evidence(judged),
        }
        if judged.stage == "final":
            value["labels"]["close_reason"] = session.close_reason
        if small:
            _shorten(value["loggpt"])
        _add_whose(value, session)
        return Message(session.key.encode(), orjson.dumps(value), self._headers(session, event_id, end_s))

    def _evidence(self, judged: JudgedSession) -> dict[str, Any]:
        """Return what no schema but ours has: scores, statistics, session and lines."""
        session, verdict = judged.session, judged.verdict
        frequencies = self._detector.line_frequencies(session.kind)
        details: dict[str, Any] = {
            "score": verdict.score,
            "threshold": verdict.threshold,
            "p_value": verdict.p_value,
            "combination": verdict.combination,
            "statistics": judged.score.statistics,
            "surprises": dict(verdict.surprises),
            "decided_by": evidence.deciding(verdict),
            "stage": judged.stage,
            "model": {"fingerprint": self._model},
            "calibration": {"id": self._calibration},
            "session": self._session(judged),
            "top_lines": self._top_lines(judged),
            "unseen_lines": [self._line(judged, index) for index in evidence.unseen_lines(session, frequencies)],
            # An open session lacks whatever is still to come.
            "absent_lines": evidence.absent_lines(session, frequencies) if judged.stage == "final" else [],
        }
        if early := self._early(judged):
            details["early"] = early
        return details

    def _headers(self, session: Session, event_id: str, end_s: float) -> tuple[tuple[str, bytes], ...]:
        """Return the headers: CloudEvents 1.0 in the binary mode of its Kafka binding, and the trace context."""
        key = session.key.encode()
        trace = (("traceparent", session.traceparent.encode()),) if session.traceparent else ()
        return (
            ("content-type", b"application/json"),
            ("ce_specversion", b"1.0"),
            ("ce_id", event_id.encode()),
            ("ce_source", f"/loggpt-stream/{self._cluster}".encode()),
            ("ce_type", CE_TYPE.encode()),
            ("ce_time", _iso(end_s).encode()),
            ("ce_subject", key),
            ("ce_partitionkey", key),
            ("ce_dataschema", DATA_SCHEMA.encode()),
            *trace,
        )

    def score_record(self, judged: JudgedSession) -> Message:
        """Return the score of any session, for the score topic and for measurement."""
        verdict = judged.verdict
        value = {
            "id": self.event_id(judged),
            "anomalous": judged.alarms,
            "unjudged": verdict.unjudged or "",
            "score": verdict.score,
            "threshold": verdict.threshold,
            "p_value": verdict.p_value,
            "statistics": judged.score.statistics,
            "session": {**self._session(judged), "group": judged.session.group},
            "early": self._early(judged),
        }
        return Message(judged.session.key.encode(), orjson.dumps(value), (("content-type", b"application/json"),))

    def _early(self, judged: JudgedSession) -> dict[str, str] | None:
        """Return what a final alert says of the early one: its id, and when it was created."""
        created_s = judged.session.announced_s
        if created_s is None or judged.stage == "early":
            return None
        return {"id": self.event_id(replace(judged, stage="early")), "created": _iso(created_s)}

    def _session(self, judged: JudgedSession) -> dict[str, Any]:
        session = judged.session
        closed = judged.stage == "final"
        return {
            "key": session.key,
            "kind": session.kind,
            "part": session.part,
            "lines": len(session.lines),
            "close_reason": session.close_reason if closed else None,
            "truncated": session.continues,
            "opened_at": _iso(session.opened_s),
            "closed_at": _iso(session.closed_s) if closed else None,
            "source": {
                "topic": judged.topic,
                "partition": judged.partition,
                "first_offset": session.first_offset,
                "last_offset": session.last_offset,
            },
        }

    def _top_lines(self, judged: JudgedSession) -> list[dict[str, Any]]:
        losses_L = judged.score.line_losses_L
        return [
            {
                **self._line(judged, index),
                "loss": float(losses_L[index]),
                "token_losses": [round(loss, 4) for loss in judged.score.token_losses[index].tolist()],
            }
            for index in _top(judged.score)
        ]

    def _line(self, judged: JudgedSession, index: int) -> dict[str, Any]:
        line = judged.session.lines[index]
        return {
            # Where the topic no longer has it: as the model saw it.
            "text": line.raw or line.text,
            "timestamp": _iso(line.time_s),
            "source": {"topic": judged.topic, "partition": judged.partition, "offset": line.offset},
        }


def _event(judged: JudgedSession, event_id: str, reason: str, created_s: float) -> dict[str, Any]:
    """Return the ECS field set `event`."""
    verdict = judged.verdict
    times_s = judged.session.times_s
    return {
        "kind": "alert",
        "category": ["host"],
        "type": ["info"],
        "action": "session-anomaly",
        "dataset": "loggpt.session",
        "module": "loggpt",
        "id": event_id,
        "start": _iso(min(times_s)),
        "end": _iso(max(times_s)),
        # ECS has it as a signed 64-bit number; a line whose clock is wrong can be centuries away.
        "duration": min(round((max(times_s) - min(times_s)) * 1e9), 2**63 - 1),
        "created": _iso(created_s),
        "severity": _severity(verdict),
        "risk_score": verdict.score,
        "risk_score_norm": round(100 * (1 - (verdict.p_value or 0.0)), 2),
        "reason": reason,
    }


def _add_whose(value: dict[str, Any], session: Session) -> None:
    """Add whose session it is, as far as it is known: instance, project and hosts."""
    if session.kind == SessionKind.INSTANCE:
        value["cloud"]["instance"] = {"id": session.key}
    if session.project_id:
        value["cloud"]["project"] = {"id": session.project_id}
    if session.hosts:
        value["host"] = {"name": session.hosts[0]}
        value["related"] = {"hosts": session.hosts}


def _top(score: SessionScore) -> list[int]:
    """Return the indices of the most surprising lines, the worst first."""
    indices: list[int] = np.argsort(-score.line_losses_L, kind="stable")[:TOP_LINES].tolist()
    return indices


def _shorten(details: dict[str, Any]) -> None:
    for line in details["top_lines"]:
        del line["token_losses"]
    for name in ("top_lines", "unseen_lines", "absent_lines"):
        for line in details[name]:
            line["text"] = line["text"][:_SMALL_CHARS]


def _severity(verdict: Verdict) -> int:
    """Return 1 to 99: 50 at the threshold, more the further above it."""
    score, threshold = verdict.score or 0.0, verdict.threshold or 0.0
    ratio = score / threshold if threshold > 0 else 1.0
    return round(min(99.0, max(1.0, 100 * ratio / (1 + ratio))))


def _iso(time_s: float) -> str:
    """Return RFC 3339 in UTC with milliseconds. A time outside the calendar (bad clocks) becomes its nearest edge."""
    bounded = min(max(time_s, 0.0), 253402300799.0)
    return datetime.fromtimestamp(bounded, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
