"""Prometheus metrics of every member of a consumer group."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class MemberMetrics:
    """What is measured of a member of a consumer group, in a registry of its own."""

    def __init__(self, prefix: str) -> None:
        """Register every metric at zero. `prefix` begins their names."""
        self.registry = registry = CollectorRegistry()
        self.records = Counter(f"{prefix}_records", "Records read from the input topic", registry=registry)
        self.input_bytes = Counter(f"{prefix}_input_bytes", "Bytes of the values read", registry=registry)
        self.records_lost = Counter(
            f"{prefix}_records_lost", "Records that retention removed before they were read", registry=registry
        )
        self.lag = Gauge(
            f"{prefix}_consumer_lag_records",
            "Records behind the end of the partition",
            ["partition"],
            registry=registry,
        )
        self.transactions = Counter(f"{prefix}_transactions", "Transactions committed", registry=registry)
        self.transaction_seconds = Histogram(
            f"{prefix}_transaction_seconds",
            "Time to commit a transaction",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.state_bytes = Counter(f"{prefix}_state_bytes", "Bytes written to the state topic", registry=registry)
        self.partitions_lost = Counter(
            f"{prefix}_partition_restarts", "Partitions taken over anew after a failure or fencing", registry=registry
        )
        self.rebalances = Counter(f"{prefix}_rebalances", "Partition assignments received", registry=registry)
        self.broker_up = Gauge(f"{prefix}_broker_up", "1 while the broker answers", registry=registry)
