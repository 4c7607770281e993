"""Prometheus metrics of `loggpt-stream route`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge

from loggpt_stream.kafka.metrics import MemberMetrics, member_label_values

if TYPE_CHECKING:
    from loggpt_stream.kafka.metrics import LabelValues

_PREFIX: Final = "loggpt_route"

LABEL_VALUES: Final[dict[str, LabelValues]] = {
    **member_label_values(_PREFIX),
    "loggpt_route_routed": {
        "kind": {
            "explicit": "The session id that the record states.",
            "instance": "The instance that the record, its text or its request names.",
            "request": "The request id.",
            "window": "Host and service, because the record names no session.",
            "continuation": "The key of the event that a traceback or another further line belongs to.",
        },
    },
    "loggpt_route_undecodable": {
        "reason": "Why the record holds no log event: a [dead letter reason](dead-letter-reasons.md).",
    },
}


class RouteMetrics(MemberMetrics):
    """All metrics of the router. What it wrote is counted once it is committed."""

    def __init__(self) -> None:
        """Register every metric at zero."""
        super().__init__(_PREFIX)
        registry = self.registry
        self.routed = Counter(
            "loggpt_route_routed",
            "Records written to the output topic and committed, by what their key is. Worry if the share of window "
            "rises: those lines belong to no session.",
            ["kind"],
            registry=registry,
        )
        self.routed_bytes = Counter(
            "loggpt_route_routed_bytes",
            "Bytes of the record values written to the output topic and committed.",
            registry=registry,
        )
        self.undecodable = Counter(
            "loggpt_route_undecodable",
            "Records without a log event. They pass with their old key, and the daemon makes dead letters of them. "
            "Worry if they are more than 1 % of the records.",
            ["reason"],
            registry=registry,
        )
        self.mixed = Counter(
            "loggpt_route_mixed",
            "Records that hold lines of several sessions, and have the key of the first. Worry if they are more than "
            "1 % of the records: let the shipper send one line a record.",
            registry=registry,
        )
        self.waiting = Gauge(
            "loggpt_route_waiting_bytes",
            "Bytes read and not yet committed. Worry if it stays above half of the setting max_waiting_mb: the broker "
            "commits more slowly than records come in.",
            registry=registry,
        )
