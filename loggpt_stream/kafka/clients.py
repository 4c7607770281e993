"""The Kafka clients of one member: the group's consumer, readers outside the group, a partition's producer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from loggpt_stream.kafka.group_versions import CLIENT_ID
from loggpt_stream.kafka.transactions import TransactionalLog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loggpt_stream.kafka.settings import MemberSettings


class Clients:
    """Makes clients, none of them started. aiokafka is untyped."""

    def __init__(self, settings: MemberSettings, producer_options: Mapping[str, object] | None = None) -> None:
        """producer_options: of a partition's producer, beyond the usual."""
        self._settings = settings
        self._producer_options = producer_options or {}

    def group_consumer(self) -> Any:  # noqa: ANN401
        """Return the consumer that is a member of the group. Raises `UserError` for a login that cannot be."""
        settings = self._settings
        timeout_ms = round(settings.session_timeout_s * 1000)
        return AIOKafkaConsumer(
            **settings.kafka.client_options() | {"client_id": CLIENT_ID},
            group_id=settings.group,
            group_instance_id=settings.instance_id,
            enable_auto_commit=False,
            # Where to begin, and what was lost, is for us to decide and to say.
            auto_offset_reset="none",
            # The input may be written in transactions too (loggpt-stream route).
            isolation_level="read_committed",
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=timeout_ms,
            heartbeat_interval_ms=timeout_ms // 10,
            rebalance_timeout_ms=2 * timeout_ms,
        )

    def reader(self) -> Any:  # noqa: ANN401
        """Return a consumer outside the group. Raises `LoginError`."""
        return AIOKafkaConsumer(
            **self._settings.kafka.options_of_another(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )

    def producer(self, partition: int) -> Any:  # noqa: ANN401
        """Return the transactional producer of an input partition. Raises `LoginError`."""
        settings = self._settings
        return AIOKafkaProducer(
            **settings.kafka.options_of_another(),
            transactional_id=f"{settings.group}-{settings.input_topic}-{partition}",
            transaction_timeout_ms=round(settings.transaction_timeout_s * 1000),
            acks="all",
            compression_type="zstd",
            linger_ms=1,
            **self._producer_options,
        )

    def log_of(self, partition: int) -> TransactionalLog:
        """Return the transactional log of an input partition."""
        state = TopicPartition(self._settings.state_topic, partition)
        return TransactionalLog(state, lambda: self.producer(partition), self.reader)
