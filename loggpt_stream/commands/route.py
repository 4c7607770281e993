"""`loggpt-stream route`: the router."""

from __future__ import annotations

import asyncio
from typing import Final

from loggpt_stream.command import Command
from loggpt_stream.route.settings import RouteCommand

_HELP: Final = """\
Give raw log records the key of their session, so that all lines of one session are on one partition. For topics whose
shippers know nothing of sessions; where the input is keyed by instance, or has one partition, there is no need for it.

  loggpt-stream route --kafka.bootstrap broker:9092 --input-topic openstack-logs-raw --output-topic openstack-logs
  loggpt-stream route --config configs/route.yaml --create-topics
  loggpt-stream route --config configs/route.yaml
  loggpt-stream run --bundle bundle --kafka.bootstrap broker:9092 --input-topic openstack-logs

A record goes out as it came: value, headers and timestamp; where it came from is in three more headers. Its key is the
session's that its line belongs to, in the daemon's own key order: explicit id, instance, instance named in the text,
the instance that its request named, request. Tracebacks follow their event. Lines without any of these go by host and
service; records without log event keep their key. Each is written exactly once for read_committed readers, whatever
crashes in between; order is kept for each key of each partition.

It remembers what its own partition told it: which instance a request is about, and which event a traceback continues.
So give the raw topic one partition, and the sessions are those of one partition. Where it has several, key it by what
writes it (host and file), never round robin: lines of a request then go astray, and with round robin tracebacks too.

--create-topics makes the topics that are missing, and ends: the output with --partitions (4), the state topic compacted
and with as many partitions as the raw one, which gets one partition if it is missing too; each with up to 3 replicas,
of which 2 in sync. What exists is left as it is."""
_RAW_PARTITIONS: Final = 1


def _run(settings: RouteCommand) -> int:
    if settings.create_topics:
        return _create(settings)
    from loggpt_stream.logs import configure  # noqa: PLC0415 - as the next ones: settings are checked before they load
    from loggpt_stream.process import run_until_signalled  # noqa: PLC0415
    from loggpt_stream.route.service import Router  # noqa: PLC0415

    configure(settings.log_format, settings.log_level)
    return run_until_signalled(Router(settings).run, failed="route_failed")


def _create(settings: RouteCommand) -> int:
    from loggpt_stream.checks.create import create_missing  # noqa: PLC0415 - likewise

    partitions = {"input topic": _RAW_PARTITIONS, "output topic": settings.partitions}
    created = asyncio.run(create_missing(settings, partitions))
    print("\n".join(created) or "every topic is there")
    return 0


COMMAND: Final = Command("loggpt-stream route", _HELP, RouteCommand, _run)
