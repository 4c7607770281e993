"""Every header that our programs give a Kafka record, and every field of a score record: what it says.

The reference is made from these tables, and tests hold them against what is really written.
"""

from __future__ import annotations

from typing import Final

ALERT_HEADERS: Final = {
    "content-type": "Always application/json.",
    "ce_specversion": "Always 1.0: CloudEvents, Kafka binding, binary mode.",
    "ce_id": "The alert's id, as in event.id. Deduplicate on it.",
    "ce_source": "/loggpt-stream/ and the setting cluster.",
    "ce_type": "Always io.loggpt.session.anomaly.v1.",
    "ce_time": "Time of the session's newest line.",
    "ce_subject": "The session's key. It is the record's key too.",
    "ce_partitionkey": "The session's key.",
    "ce_dataschema": "The $id of the JSON Schema.",
    "traceparent": "W3C trace context of the first record of the session that had one; left out where none had.",
}

SCORE_FIELDS: Final = {
    "id": "The id that the session's alert has, or would have.",
    "anomalous": "True where the score is above the threshold.",
    "unjudged": "Empty, or why there is no verdict: late, outdated or kind_not_calibrated.",
    "score": "In nats; null where the session was not judged.",
    "threshold": "In nats; null where the session was not judged.",
    "p_value": "Share of normal sessions that score at least as high; null where the session was not judged.",
    "statistics": "Every statistic by name, as measured.",
    "session": "As loggpt.session of an alert, and group: the session id that its lines state, where another key won.",
    "early": "id and created of its early alert; null where there was none.",
}

DEAD_LETTER_HEADERS: Final = {
    "loggpt_reason": "Why the record holds no log event. It is the first of our headers.",
    "loggpt_detail": "What exactly is wrong, in words.",
    "loggpt_topic": "The topic that the record came from.",
    "loggpt_partition": "Its partition.",
    "loggpt_offset": "Its offset.",
    "loggpt_timestamp_ms": "Its timestamp, in epoch milliseconds.",
    "loggpt_truncated_from_bytes": "How many bytes its value had; only where something was cut.",
}

REINJECTED_HEADERS: Final = {
    "loggpt_reinjected_from": "On a record that was put back: topic/partition/offset of the dead letter.",
    "loggpt_reinjected": "On a mark in the dead letter topic: its value lists the offsets that were put back.",
}

ROUTED_HEADERS: Final = {
    "loggpt_route_topic": "The raw topic that the record came from.",
    "loggpt_route_partition": "Its partition there.",
    "loggpt_route_offset": "Its offset there.",
    "loggpt_route_about_several": "Only where its request names several instances, and so belongs to none of them.",
}
