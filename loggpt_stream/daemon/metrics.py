"""Prometheus metrics of the daemon.

To add one: register it here with a help text in whole sentences, say what its labels mean in `LABEL_VALUES`, and run
`make reference`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loggpt_stream.kafka.metrics import LATENCY_BUCKETS_S, PARTITION, MemberMetrics, member_label_values

if TYPE_CHECKING:
    from loggpt_stream.kafka.metrics import LabelValues

_PREFIX: Final = "loggpt"
_BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

FATES: Final = {
    "line": "It is a line of an open session.",
    "continuation": "It continues a line of an open session, as the lines of a traceback do.",
    "late_line": "It came after its session had ended, so it is in a late session, which is never judged.",
    "late_continuation": "It continues a line of a session that has closed, so it is dropped.",
    "orphan_continuation": "It continues a line that nobody has seen, so it is dropped.",
    "unkeyed": "It names no session, so it is dropped.",
}
KINDS: Final = {
    "explicit": "Sessions by an id that the lines state.",
    "instance": "Sessions of a VM instance.",
    "request": "Sessions of an API request.",
    "window": "Lines of one host and service that name no session (`unkeyed: window`).",
}
CLOSE_REASONS: Final = {
    "idle": "No line came for `idle_gap_s`.",
    "terminal": "A line said that the instance is gone, and `grace_s` have passed.",
    "max_age": "The session reached `max_age_s`; the rest is its next part.",
    "max_lines": "The session reached `max_lines`; the rest is its next part.",
    "memory": "The process reached one of its limits `max_open_*`, and this session was the quietest.",
    "end_of_input": "The input has ended: a file, or a topic that was deleted.",
}
VERDICTS: Final = {
    "normal": "The score is not above the threshold.",
    "anomalous": "The score is above the threshold: there is an alert.",
    "late": "Not judged: its lines came after their session had ended.",
    "outdated": "Not judged: some lines were masked by the rules of an earlier bundle.",
    "kind_not_calibrated": "Not judged: the bundle has no threshold for this kind.",
}
STAGES: Final = {
    "early": "The session is still open.",
    "final": "The session is closed.",
}

_OF_KIND: Final[LabelValues] = {"partition": PARTITION, "kind": KINDS}
LABEL_VALUES: Final[dict[str, LabelValues]] = {
    **member_label_values(_PREFIX),
    "loggpt_lines": {"fate": FATES},
    "loggpt_sessions_closed": {"kind": KINDS, "reason": CLOSE_REASONS},
    "loggpt_sessions_scored": {"kind": KINDS, "verdict": VERDICTS},
    "loggpt_watermark_seconds": {"partition": PARTITION},
    "loggpt_alerts": {"kind": KINDS, "stage": STAGES},
    "loggpt_threshold_nats": _OF_KIND,
    "loggpt_alarm_rate": _OF_KIND,
    "loggpt_mean_p_value": _OF_KIND,
    "loggpt_threshold_at_bound": _OF_KIND,
    "loggpt_early_threshold_nats": _OF_KIND,
    "loggpt_early_unconfirmed_rate": _OF_KIND,
    "loggpt_dead_letters": {"reason": "Why the record holds no log event: a [reason](dead-letter-reasons.md)."},
}


class Metrics(MemberMetrics):
    """All metrics of the daemon."""

    def __init__(self) -> None:
        """Register every metric at zero."""
        super().__init__(_PREFIX)
        self._of_intake(self.registry)
        self._of_scoring(self.registry)
        self._of_publishing(self.registry)
        self._of_drift(self.registry)

    def _of_intake(self, registry: CollectorRegistry) -> None:
        self.lines = Counter(
            "loggpt_lines",
            "Log lines, by what became of them. Worry if late and orphan ones are more than 1 % of all: a session's "
            "lines are on several partitions then, or clocks differ.",
            ["fate"],
            registry=registry,
        )
        self.sessions_closed = Counter(
            "loggpt_sessions_closed",
            "Sessions closed, by kind and reason. Worry if any closes for memory: raise the limits max_open_*, or add "
            "daemons.",
            ["kind", "reason"],
            registry=registry,
        )
        self.sessions_open = Gauge(
            "loggpt_sessions_open",
            "Sessions that are open now. Worry above 80 % of the setting max_open_sessions: past it the quietest "
            "session closes.",
            registry=registry,
        )
        self.lines_open = Gauge(
            "loggpt_lines_open",
            "Lines of the sessions that are open now. Worry above 80 % of the setting max_open_lines.",
            registry=registry,
        )
        self.open_bytes = Gauge(
            "loggpt_open_bytes",
            "Memory of the open sessions in bytes, about. Worry above 80 % of the setting max_open_mb.",
            registry=registry,
        )
        self.watermark = Gauge(
            "loggpt_watermark_seconds",
            "Newest time of a log line on the partition, in epoch seconds. Worry if it is minutes behind the clock "
            "while lines come in, or ahead of it: a host's clock is wrong.",
            ["partition"],
            registry=registry,
        )

    def _of_scoring(self, registry: CollectorRegistry) -> None:
        self.sessions_pending = Gauge(
            "loggpt_sessions_pending",
            "Closed sessions that are not yet scored and published. Worry if it stays above half of the setting "
            "max_pending_sessions: the scorer is too slow, and reading pauses at the whole.",
            registry=registry,
        )
        self.batch_sessions = Histogram(
            "loggpt_batch_sessions",
            "Sessions in a scoring batch. Batches of one under load mean that the scorer waits for input.",
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self.score_seconds = Histogram(
            "loggpt_score_seconds",
            "Seconds to score a batch. Worry if the 99th percentile is above 30: past the setting score_timeout_s the "
            "process ends.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.batch_tokens = Gauge(
            "loggpt_batch_tokens",
            "Tokens that a scoring batch may hold. Worry if it is less than the setting batch_tokens: the device is "
            "short of memory.",
            registry=registry,
        )
        self.on_cpu = Gauge(
            "loggpt_scorer_on_cpu",
            "1 while the CPU scores, else 0. Worry if it is 1 where you gave it a GPU: its memory was too small.",
            registry=registry,
        )

    def _of_publishing(self, registry: CollectorRegistry) -> None:
        self.sessions_scored = Counter(
            "loggpt_sessions_scored",
            "Sessions scored and committed, by kind and verdict. Worry if kind_not_calibrated or late is more than a "
            "few percent.",
            ["kind", "verdict"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "loggpt_dead_letters",
            "Records sent to the dead letter topic, by reason. Worry about any steady rate: loggpt-stream "
            "dead-letters explain says what to do.",
            ["reason"],
            registry=registry,
        )
        self.publish_seconds = Histogram(
            "loggpt_close_to_publish_seconds",
            "Seconds from the close of a session to its committed verdict. Worry if the 99th percentile is above 10.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.alerts = Counter(
            "loggpt_alerts",
            "Alerts committed, by kind and stage. Worry about a sudden rise: the cloud fails, or, where "
            "loggpt_mean_p_value falls too, its logs have changed.",
            ["kind", "stage"],
            registry=registry,
        )

    def _of_drift(self, registry: CollectorRegistry) -> None:
        of_kind = ["partition", "kind"]
        self.threshold = Gauge(
            "loggpt_threshold_nats",
            "Threshold in use, in nats: the calibrated one, as far as drift has not raised it. Worry if it is above "
            "the calibrated one for days: calibrate again.",
            of_kind,
            registry=registry,
        )
        self.alarm_rate = Gauge(
            "loggpt_alarm_rate",
            "Share of about the last 100 sessions that scored above the threshold. Worry if it is three times the "
            "promised false-alarm rate for hours.",
            of_kind,
            registry=registry,
        )
        self.mean_p_value = Gauge(
            "loggpt_mean_p_value",
            "Mean p-value of about the last 100 sessions below the bound. It is near 0.5 while nothing drifts. Worry "
            "below 0.4: normal sessions score higher than in the calibration.",
            of_kind,
            registry=registry,
        )
        self.at_bound = Gauge(
            "loggpt_threshold_at_bound",
            "1 while drift holds the threshold at its bound, else 0. Worry if it is 1: the promised false-alarm rate "
            "no longer holds, so calibrate again.",
            of_kind,
            registry=registry,
        )
        self.early_threshold = Gauge(
            "loggpt_early_threshold_nats",
            "Threshold of early alerts in use, in nats, as far as drift has not raised it. Worry if it is above the "
            "calibrated one for days.",
            of_kind,
            registry=registry,
        )
        self.unconfirmed_rate = Gauge(
            "loggpt_early_unconfirmed_rate",
            "Share of recent sessions, normal in the end, whose early score was above the calibrated early threshold. "
            "Worry if it is above the promised early false-alarm rate for days.",
            of_kind,
            registry=registry,
        )
