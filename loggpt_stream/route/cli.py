"""`loggpt-stream route`: the router as a process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loggpt_stream.logs import configure
from loggpt_stream.process import run_until_signalled
from loggpt_stream.route.service import Router
from loggpt_stream.route.settings import RouteSettings
from loggpt_stream.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION: Final = """\
Give raw log records the key of their session, so that all lines of one session are on one partition. For topics whose
shippers know nothing of sessions; where the input is keyed by instance, or has one partition, there is no need for it.

  loggpt-stream route --kafka.bootstrap broker:9092 --input-topic openstack-logs-raw --output-topic openstack-logs
  loggpt-stream route --config configs/route.yaml
  loggpt-stream run --bundle bundle --kafka.bootstrap broker:9092 --input-topic openstack-logs

A record goes out as it came: value, headers and timestamp; where it came from is in three more headers. Its key is the
session's that its line belongs to, in the daemon's own key order: explicit id, instance, instance named in the text,
the instance that its request named, request. Tracebacks follow their event. Lines without any of these go by host and
service; records without log event keep their key. Each is written exactly once for read_committed readers, whatever
crashes in between; order is kept for each key of each partition.

It remembers what its own partition told it: which instance a request is about, and which event a traceback continues.
So give the raw topic one partition, and the sessions are those of one partition. Where it has several, key it by what
writes it (host and file), never round robin: lines of a request then go astray, and with round robin tracebacks too."""


def main(argv: Sequence[str]) -> int:
    """Run the router until SIGTERM or SIGINT; return the exit code."""
    settings = load(RouteSettings, argv, prog="loggpt-stream route", description=_DESCRIPTION)
    configure(settings.log_format, settings.log_level)
    return run_until_signalled(Router(settings).run, failed="route_failed")
