"""Prometheus metrics of `loggpt-stream route`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from loggpt_stream.kafka.metrics import MemberMetrics


class RouteMetrics(MemberMetrics):
    """All metrics of the router. What it wrote is counted once it is committed."""

    def __init__(self) -> None:
        """Register every metric at zero."""
        super().__init__("loggpt_route")
        registry = self.registry
        self.routed = Counter("loggpt_route_routed", "Records committed, by kind of key", ["kind"], registry=registry)
        self.routed_bytes = Counter("loggpt_route_routed_bytes", "Bytes of the values committed", registry=registry)
        self.undecodable = Counter(
            "loggpt_route_undecodable",
            "Records without log event, passed on with their old key, by reason",
            ["reason"],
            registry=registry,
        )
        self.mixed = Counter(
            "loggpt_route_mixed", "Records that hold lines of several sessions: one key for all", registry=registry
        )
        self.waiting = Gauge("loggpt_route_waiting_bytes", "Bytes read and not yet committed", registry=registry)
