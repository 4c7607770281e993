"""What the doctor finds on the topics beyond what must hold: will they keep what they are given, and take all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loggpt_stream.kafka.finding import Finding, Level
from loggpt_stream.kafka.topics import POLICY, alter_config, must_hold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loggpt_stream.daemon.settings import DaemonPlacement
    from loggpt_stream.kafka.topics import Cluster, Topic
    from loggpt_stream.model.bundle import Bundle

# A dead letter keeps up to 900,000 bytes of its record, and its headers.
MIN_MESSAGE_BYTES: Final = 1_000_000
STATE_SEGMENT_BYTES: Final = 16 * 1024 * 1024
_MAX_STATE_SEGMENT_BYTES: Final = 100_000_000
_DAY_S: Final = 86_400.0


def check_topics(settings: DaemonPlacement, cluster: Cluster, bundle: Bundle | None) -> Iterator[Finding]:
    """Yield for each topic what is not as it should be, or that it is."""
    failures = list(must_hold(settings, cluster))
    for role, name in settings.topics().items():
        found = [each for each in failures if each.check == role]
        topic = cluster.topics.get(name)
        if topic is not None:
            found += _configured(settings, role, topic, bundle)
        if topic is not None and not any(each.level is Level.FAILURE for each in found):
            yield Finding(role, Level.OK, _summary(role, topic))
        yield from found


def _summary(role: str, topic: Topic) -> str:
    said = f"{topic.name}, {topic.partitions} partition{'s' * (topic.partitions > 1)}"
    if topic.configs is None:
        return said
    said += f", {topic.replicas} replica{'s' * (topic.replicas > 1)}"
    if role == "state topic":
        return f"{said}, compacted"
    kept_ms = int(topic.configs.get("retention.ms", "-1"))
    return f"{said}, kept {'for ever' if kept_ms < 0 else f'for {duration(kept_ms / 1000)}'}"


def _configured(settings: DaemonPlacement, role: str, topic: Topic, bundle: Bundle | None) -> Iterator[Finding]:
    if topic.configs is None:
        yield Finding(
            role,
            Level.WARNING,
            f"{topic.name}: its configuration may not be seen, so it is not checked",
            f"kafka-acls.sh: allow DescribeConfigs on topic {topic.name}, for the doctor alone",
        )
        return
    configs = topic.configs
    if role == "input topic":
        yield from _input(settings, topic, bundle)
        return
    yield from _durable(settings, role, topic)
    if role == "state topic":
        yield from _compactable(settings, topic)
    elif "compact" in configs.get(POLICY, ""):
        # Alerts have their session as key, and dead letters that of their record, which may be none.
        yield Finding(
            role,
            Level.FAILURE if role == "dead letter topic" else Level.WARNING,
            f"{topic.name} has {POLICY}={configs[POLICY]}: of several records with one key only the last stays",
            alter_config(settings, topic.name, f"{POLICY}=delete"),
        )
    largest = int(configs.get("max.message.bytes", MIN_MESSAGE_BYTES))
    if largest < MIN_MESSAGE_BYTES:
        yield Finding(
            role,
            Level.FAILURE,
            f"{topic.name} takes records of at most {largest:,} bytes; what the daemon writes may have a megabyte",
            alter_config(settings, topic.name, "max.message.bytes=1048588"),
        )


def _clean(settings: DaemonPlacement, role: str, topic: Topic) -> Iterator[Finding]:
    if (topic.configs or {}).get("unclean.leader.election.enable", "false") != "false":
        yield Finding(
            role,
            Level.FAILURE,
            f"{topic.name} has unclean.leader.election.enable=true: what was committed may be lost in silence",
            alter_config(settings, topic.name, "unclean.leader.election.enable=false"),
        )


def _durable(settings: DaemonPlacement, role: str, topic: Topic) -> Iterator[Finding]:
    configs = topic.configs or {}
    in_sync = int(configs.get("min.insync.replicas", "1"))
    yield from _clean(settings, role, topic)
    if in_sync > topic.replicas:
        yield Finding(
            role,
            Level.FAILURE,
            f"{topic.name} has min.insync.replicas={in_sync} and {topic.replicas} replica(s): nothing can be written",
            alter_config(settings, topic.name, f"min.insync.replicas={max(1, topic.replicas - 1)}"),
        )
    elif role == "score topic":
        return  # Scores are for dashboards; they come again with the next session.
    elif topic.replicas == 1:
        yield Finding(
            role,
            Level.WARNING,
            f"{topic.name} has 1 replica: a broker's disk that fails takes it along",
            "fine for a trial; else give it three (kafka-reassign-partitions.sh), on as many brokers",
        )
    elif in_sync == 1:
        yield Finding(
            role,
            Level.WARNING,
            f"{topic.name} has min.insync.replicas=1: a record counts as written when one broker has it",
            alter_config(settings, topic.name, "min.insync.replicas=2"),
        )


def _compactable(settings: DaemonPlacement, topic: Topic) -> Iterator[Finding]:
    segment = int((topic.configs or {}).get("segment.bytes", STATE_SEGMENT_BYTES))
    if segment > _MAX_STATE_SEGMENT_BYTES:
        # The segment that is written to is never compacted.
        yield Finding(
            "state topic",
            Level.WARNING,
            f"{topic.name} has segments of {size(segment)}: Kafka compacts none before it is full, and all of it is "
            "read when a partition is taken over",
            alter_config(settings, topic.name, f"segment.bytes={STATE_SEGMENT_BYTES},min.cleanable.dirty.ratio=0.1"),
        )


def _input(settings: DaemonPlacement, topic: Topic, bundle: Bundle | None) -> Iterator[Finding]:
    configs = topic.configs or {}
    yield from _clean(settings, "input topic", topic)
    kept_bytes = int(configs.get("retention.bytes", "-1"))
    if kept_bytes >= 0:
        yield Finding(
            "input topic",
            Level.WARNING,
            f"{topic.name} keeps at most {size(kept_bytes)} a partition: under load that may be gone in an outage",
            alter_config(settings, topic.name, "retention.bytes=-1") + ", or see that it lasts for a day at least",
        )
    if "compact" in configs.get(POLICY, ""):
        yield Finding(
            "input topic",
            Level.FAILURE,
            f"{topic.name} has {POLICY}={configs[POLICY]}: of lines that share a key only the last stays",
            alter_config(settings, topic.name, f"{POLICY}=delete"),
        )
    kept_s = int(configs.get("retention.ms", "-1")) / 1000
    if kept_s < 0 or bundle is None:
        return
    longest_s = bundle.preprocessing.session_rules.max_age_s
    longer = alter_config(settings, topic.name, f"retention.ms={round(max(7 * _DAY_S, 2 * longest_s) * 1000)}")
    if kept_s <= longest_s:
        yield Finding(
            "input topic",
            Level.FAILURE,
            f"{topic.name} keeps records for {duration(kept_s)} and a session may last {duration(longest_s)}: its "
            "first lines could be gone before it is scored",
            longer,
        )
    elif kept_s < _DAY_S:
        yield Finding(
            "input topic",
            Level.WARNING,
            f"{topic.name} keeps records for {duration(kept_s)}: after a longer outage some were never read",
            longer,
        )


def duration(seconds: float) -> str:
    """Return seconds in the largest unit that leaves a readable number."""
    for unit, length_s in (("days", _DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.3g} {unit}"
    return f"{seconds:.3g} s"


def size(count: int) -> str:
    """Return bytes in the largest unit that leaves a readable number."""
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count} B"
