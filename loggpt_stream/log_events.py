"""Every log event of our programs: what it means, and what to do about it.

The reference (`docs/reference/log-events.md`) is made from this table; level, fields and component come from the code.
A test finds each event that the code logs and this table lacks, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_NOTHING: Final = "Nothing."


@dataclass(frozen=True, slots=True)
class LogEvent:
    """What an event means and what whoever runs the program can do: both whole sentences."""

    meaning: str
    action: str = _NOTHING


LOG_EVENTS: Final = {
    "alert": LogEvent(
        "A session is abnormal, and its alert is committed. `stage` is `early` while the session is still open.",
        "Look for the alert in the alert topic: `event_id` is its `event.id`.",
    ),
    "broker_available": LogEvent("The broker answers: the first time, or again after an outage."),
    "broker_retry": LogEvent("There is no connection yet. The next try begins in `retry_in_s` seconds."),
    "broker_unavailable": LogEvent(
        "The broker does not answer or does not let us in. `reason` says why, as far as a fresh login could find out. "
        "It is logged once for each new reason, at most every 30 seconds.",
        "Read `reason`, mend the network, the login or the broker. The program goes on by itself, and loses nothing.",
    ),
    "client_cut_off": LogEvent(
        "A Kafka client did not stop in time, so its connections were closed.",
        "Nothing while the broker is away. If it happens with a healthy broker, look at the network in between.",
    ),
    "client_left_open": LogEvent(
        "The connections of a Kafka client could not be closed either. They stay open until the broker drops them.",
        "Restart the program if the number of its open connections keeps growing.",
    ),
    "daemon_failed": LogEvent(
        "An unexpected error ended the daemon with exit code 1. The traceback is in the event.",
        "Let the service manager start it again: it goes on from the last commit. If it comes back, report it.",
    ),
    "daemon_starting": LogEvent(
        "The bundle is loaded, and /metrics and /health are served on `http_port`. The broker is asked next."
    ),
    "daemon_stopped": LogEvent(
        "The daemon has committed and ends. The `open_sessions` are in the state topic for whoever goes on."
    ),
    "daemon_stopping": LogEvent("SIGTERM or SIGINT came. What is closed is still scored and published."),
    "dead_letter": LogEvent(
        "A record holds no log event, so it went to the dead letter topic.",
        "Run `loggpt-stream dead-letters explain`: it says what each reason means and what to do.",
    ),
    "drain_timed_out": LogEvent(
        "Not every closed session was scored within `shutdown_grace_s`. The next owner scores the rest.",
        "Raise `shutdown_grace_s` (and the service manager's own limit) if this happens at every stop.",
    ),
    "early_threshold_raised": LogEvent(
        "Too many early alerts were not confirmed when their session closed, so the early threshold rose "
        "(with `drift: watch`: it would have risen).",
        "Calibrate again on newer sessions, or train again.",
    ),
    "group_not_advised": LogEvent(
        "The positions could not be committed to the consumer group. Only lag tools read them there.",
        "Nothing, unless it goes on: then look at the broker and at the right to use the group.",
    ),
    "input_made_anew": LogEvent(
        "The input topic was deleted and created again. What was open is judged as it is, and the new topic is read "
        "from its start.",
        "Nothing, if you did that. Otherwise find out who did.",
    ),
    "input_topic_missing": LogEvent(
        "The input topic does not exist any more, or we may not see it.",
        "Run `loggpt-stream doctor` with the same settings; `--create-topics` creates what is missing.",
    ),
    "no_progress": LogEvent(
        "Work is waiting and has stood still for `stuck_after_s`. /health/live fails now, so that the process is "
        "restarted.",
        "Let the service manager restart it. If it comes back, keep the log and report it.",
    ),
    "partition_fenced": LogEvent(
        "Another process has taken over the partition, and the broker refuses our transaction.",
        "Nothing after a rebalance. If it goes on, look for a second deployment with the same group and input topic.",
    ),
    "partition_lost": LogEvent(
        "Reading or writing for a partition failed while `during`; it is taken over anew from the last commit. "
        "After 10 failures in a row the process ends.",
        "Nothing if it happens once. Otherwise read `error`, and look at the broker's log.",
    ),
    "partition_not_ours": LogEvent("The group has given the partition to another member, or is about to."),
    "partition_taken_over": LogEvent("The state of a partition is restored, and reading goes on at `position`."),
    "state_format_held_back": LogEvent(
        "A member of the group reads an older state format only, so state is written in that one.",
        "Nothing in a rolling upgrade: the newest format comes once every member reads it.",
    ),
    "state_format_released": LogEvent(
        "Every member of the group reads the newest state format. It is written once `settled_in_s` have passed so.",
    ),
    "state_format_unknown": LogEvent(
        "The broker did not say who is in the group, so every state stays in the format that it is in.",
        "Allow Describe on the group, or set `state_format` to the newest that every member reads.",
    ),
    "partitions_assigned": LogEvent("A rebalance gave us these partitions. Each is taken over next."),
    "partitions_revoked": LogEvent("A rebalance took these partitions away. What was read of them is committed."),
    "producer_left_open": LogEvent(
        "The producer of a partition that was given up could not be closed in time.",
        "Nothing: whoever takes over fences it.",
    ),
    "raw_lines_not_read": LogEvent(
        "Lines of an alert could not be read again from the input topic, so the alert shows them masked.",
        "Nothing if it happens once. Otherwise read `error`: the retention may be short, or the broker slow.",
    ),
    "reading": LogEvent("So many records are read so far."),
    "reading_done": LogEvent("All input is read and gathered to sessions."),
    "reading_paused": LogEvent(
        "The scorer is behind, so reading waits until half of what waits is scored.",
        "Nothing for a burst. If it lasts, add a GPU, more daemons with more partitions, or larger batches.",
    ),
    "reading_resumed": LogEvent("The scorer has caught up, and reading goes on."),
    "reading_started": LogEvent("The input is being read."),
    "records_lost": LogEvent(
        "Retention removed records before they were read. Reading goes on at `to_offset`.",
        "Give the input topic a longer retention, and find out why the daemon was behind for so long.",
    ),
    "route_failed": LogEvent(
        "An unexpected error ended the router with exit code 1. The traceback is in the event.",
        "Let the service manager start it again: it goes on from the last commit. If it comes back, report it.",
    ),
    "route_starting": LogEvent("/metrics and /health are served on `http_port`. The broker is asked next."),
    "route_stopped": LogEvent("The router has committed and ends."),
    "route_stopping": LogEvent("SIGTERM or SIGINT came. What was read is still committed."),
    "scorer_out_of_memory": LogEvent(
        "The device has too little memory for a batch. Batches are smaller from now on, or the CPU scores.",
        "Lower `batch_tokens`, or free memory of the device, and restart.",
    ),
    "scores_drifted": LogEvent(
        "The normal sessions of this kind score higher than those of the calibration, by more than chance explains.",
        "Look for what changed in the cloud: an upgrade, a new service. Calibrate on newer sessions, or train again.",
    ),
    "sessions_scored": LogEvent("So many of the distinct sessions are scored so far."),
    "threshold_at_bound": LogEvent(
        "Drift has moved the threshold as far as it may go. The promised false-alarm rate no longer holds.",
        "Calibrate again on newer sessions, or train again.",
    ),
}
