"""Prometheus metrics of the daemon."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from loggpt_stream.kafka.metrics import LATENCY_BUCKETS_S, MemberMetrics

_BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics(MemberMetrics):
    """All metrics of the daemon."""

    def __init__(self) -> None:
        """Register every metric at zero."""
        super().__init__("loggpt")
        registry = self.registry
        self.lines = Counter("loggpt_lines", "Log lines, by what became of them", ["fate"], registry=registry)
        self.sessions_closed = Counter(
            "loggpt_sessions_closed", "Sessions closed, by kind and reason", ["kind", "reason"], registry=registry
        )
        self.sessions_scored = Counter(
            "loggpt_sessions_scored", "Sessions scored, by kind and verdict", ["kind", "verdict"], registry=registry
        )
        self.sessions_open = Gauge("loggpt_sessions_open", "Sessions open now", registry=registry)
        self.lines_open = Gauge("loggpt_lines_open", "Lines of open sessions now", registry=registry)
        self.sessions_pending = Gauge(
            "loggpt_sessions_pending", "Closed sessions not yet scored and published", registry=registry
        )
        self.watermark = Gauge(
            "loggpt_watermark_seconds", "Record time reached (epoch seconds)", ["partition"], registry=registry
        )
        self.batch_sessions = Histogram(
            "loggpt_batch_sessions", "Sessions in a scoring batch", buckets=_BATCH_BUCKETS, registry=registry
        )
        self.score_seconds = Histogram(
            "loggpt_score_seconds", "Time to score a batch", buckets=LATENCY_BUCKETS_S, registry=registry
        )
        self.batch_tokens = Gauge(
            "loggpt_batch_tokens", "Tokens of a scoring batch at most; less where memory was short", registry=registry
        )
        self.on_cpu = Gauge(
            "loggpt_scorer_on_cpu", "1 while the CPU scores, from choice or for lack of memory", registry=registry
        )
        self.publish_seconds = Histogram(
            "loggpt_close_to_publish_seconds",
            "Time from a session's close to its published verdict",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.alerts = Counter(
            "loggpt_alerts", "Alerts published, by kind and stage", ["kind", "stage"], registry=registry
        )
        of_kind = ["partition", "kind"]
        self.threshold = Gauge(
            "loggpt_threshold_nats", "Threshold in use, after what drift did to it", of_kind, registry=registry
        )
        self.alarm_rate = Gauge(
            "loggpt_alarm_rate", "Share of recent sessions above the threshold", of_kind, registry=registry
        )
        self.mean_p_value = Gauge(
            "loggpt_mean_p_value",
            "Mean p-value of recent sessions below the bound; one half while nothing drifts",
            of_kind,
            registry=registry,
        )
        self.at_bound = Gauge(
            "loggpt_threshold_at_bound", "1 while drift holds the threshold at its bound", of_kind, registry=registry
        )
        self.early_threshold = Gauge(
            "loggpt_early_threshold_nats",
            "Early threshold in use, after what drift did to it",
            of_kind,
            registry=registry,
        )
        self.unconfirmed_rate = Gauge(
            "loggpt_early_unconfirmed_rate",
            "Share of recent sessions, normal in the end, above the calibrated early threshold",
            of_kind,
            registry=registry,
        )
        self.dead_letters = Counter(
            "loggpt_dead_letters", "Records sent to the dead letter topic, by reason", ["reason"], registry=registry
        )
        self.open_bytes = Gauge("loggpt_open_bytes", "Memory of open sessions, about", registry=registry)
