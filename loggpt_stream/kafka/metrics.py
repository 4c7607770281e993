"""Prometheus metrics of every member of a consumer group.

Help texts are sentences for whoever is on call: what the number means, and when to worry. The reference
(`docs/reference/metrics.md`) is made from them and from `LABEL_VALUES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    # Of a label: what it says, or what each of its values means.
    LabelValues = Mapping[str, str | Mapping[str, str]]

LATENCY_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

PARTITION: Final = "Number of the partition of the input topic."


def member_label_values(prefix: str) -> dict[str, LabelValues]:
    """Return what the labels of `MemberMetrics` mean, by metric; `prefix` begins their names."""
    return {f"{prefix}_consumer_lag_records": {"partition": PARTITION}}


class MemberMetrics:
    """What is measured of a member of a consumer group, in a registry of its own."""

    def __init__(self, prefix: str) -> None:
        """Register every metric at zero. `prefix` begins their names."""
        self.registry = registry = CollectorRegistry()
        self.records = Counter(
            f"{prefix}_records",
            "Records read from the input topic. Worry if the rate is 0 for minutes while the lag is above 0.",
            registry=registry,
        )
        self.input_bytes = Counter(
            f"{prefix}_input_bytes", "Bytes of the record values read from the input topic.", registry=registry
        )
        self.records_lost = Counter(
            f"{prefix}_records_lost",
            "Records that retention removed before they were read. Worry about any increase: give the input topic a "
            "longer retention.",
            registry=registry,
        )
        self.lag = Gauge(
            f"{prefix}_consumer_lag_records",
            "Records between the read position and the end of the partition. Worry if it grows for 10 minutes.",
            ["partition"],
            registry=registry,
        )
        self.transactions = Counter(
            f"{prefix}_transactions",
            "Transactions committed: each writes the output, the state and the read position together. Worry if "
            "records are read and none is committed for a minute.",
            registry=registry,
        )
        self.transaction_seconds = Histogram(
            f"{prefix}_transaction_seconds",
            "Seconds from the beginning to the commit of a transaction. Worry if the 99th percentile is above a third "
            "of the setting transaction_timeout_s: by default, above 5 seconds.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.state_bytes = Counter(
            f"{prefix}_state_bytes", "Bytes written to the state topic, before compression.", registry=registry
        )
        self.partitions_lost = Counter(
            f"{prefix}_partition_restarts",
            "Partitions given up and taken over anew, after a failure or because another process fenced us. Nothing "
            "is lost. Worry if it is more than 3 in 10 minutes without a rebalance: the log says why.",
            registry=registry,
        )
        self.rebalances = Counter(
            f"{prefix}_rebalances",
            "Partition assignments received from the consumer group. Worry if there are more than 6 an hour while "
            "nobody starts or stops a process.",
            registry=registry,
        )
        self.broker_up = Gauge(
            f"{prefix}_broker_up",
            "1 while the broker answers, else 0. Worry if it is 0 for 2 minutes: nothing is read meanwhile.",
            registry=registry,
        )
