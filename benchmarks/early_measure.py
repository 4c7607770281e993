"""What watching open sessions is worth: which failures are announced before the client sees them, and how long before.

In replayed real time: the daemon looks at record times that are multiples of its `early_every_s`, and sees the lines
that came at least SETTLE_S before. An alert before the fault was injected is a false alarm, no anticipation.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from loggpt_stream.daemon.early import SETTLE_S
from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.model.calibration import Calibration, Judge, KindCalibration
from loggpt_stream.model.early import first_alarm, new_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calibrate.sessions import ScoredSession
    from loggpt_stream.history.labels import Labels
    from loggpt_stream.model.drift_mode import DriftMode
    from loggpt_stream.model.scoring import Scorer

EVERY_S: float = DaemonSettings.model_fields["early_every_s"].default


def announced(
    members: Sequence[ScoredSession], scorer: Scorer, calibration: KindCalibration, labels: Labels, drift: DriftMode
) -> dict[str, Any]:
    """Return what would have been announced early, and when; times in seconds.

    For failures whose row says when the fault was injected and when the client saw it: `failures`; `announced`, of
    them, after the injection; `in_time`, of those, before the client saw it, with `leads_s` of `largest_s`; `delays_s`
    from injection to announcement; `before_injection`. Of normal sessions: `normal`, `false_alarms`, and the share
    `promised`.
    """
    counts = ("failures", "announced", "in_time", "before_injection", "normal", "false_alarms")
    found: dict[str, Any] = dict.fromkeys(counts, 0)
    found |= {"leads_s": [], "largest_s": [], "delays_s": []}
    kind = members[0].session.kind
    judge = Judge(Calibration({kind: calibration}), drift)
    members = sorted(members, key=lambda each: each.session.closed_s)
    for each, score in zip(members, scorer.score([each.session for each in members]), strict=True):
        session = each.session
        early = judge.early(kind)
        if early is None:
            raise ValueError(f"{kind} is not judged early")
        found["promised"] = early.false_alarm_rate
        index = first_alarm(score.line_losses_L, new_unseen(session.texts, scorer.line_frequencies[kind]), early)
        judge.judge(kind, each.statistics)
        at_s = math.inf if index is None else _seen_s(session.lines[index].time_s)
        if at_s >= session.closed_s:
            at_s = math.inf  # its final alert comes first
        row = labels.row(session) or {}
        if not each.truth:
            found["normal"] += 1
            found["false_alarms"] += at_s < math.inf
        elif row.get("injected_at") and row.get("failed_at"):
            injected_s, failed_s = _time_s(row["injected_at"]), _time_s(row["failed_at"])
            found["failures"] += 1
            if at_s < injected_s:
                found["before_injection"] += 1
            elif at_s < math.inf:
                found["announced"] += 1
                found["delays_s"].append(at_s - injected_s)
                if at_s < failed_s:
                    found["in_time"] += 1
                    found["leads_s"].append(failed_s - at_s)
                    found["largest_s"].append(failed_s - injected_s)
    return found


def _seen_s(line_s: float) -> float:
    """Return when the daemon looks at a line of time `line_s`."""
    return math.ceil((line_s + SETTLE_S) / EVERY_S) * EVERY_S


def _time_s(text: str) -> float:
    """Return a label's time, epoch seconds or ISO 8601 in UTC, as epoch seconds."""
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
