"""`loggpt-stream route`: the router as a process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiokafka.errors import KafkaError
from pydantic import Field

from loggpt_stream.checks.create import DEFAULT_PARTITIONS, create_topics
from loggpt_stream.commands.process import run_until_signalled
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.connection import explain, why_not
from loggpt_stream.kafka.topics import kafka_client, look_up
from loggpt_stream.logs import configure
from loggpt_stream.route.service import Router
from loggpt_stream.route.settings import RouteSettings
from loggpt_stream.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION: Final = """\
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


class RouteCommand(RouteSettings):
    """Settings of `loggpt-stream route`: the router's, and what to create."""

    create_topics: bool = Field(default=False, description="create the topics that are missing, and end")
    partitions: int = Field(DEFAULT_PARTITIONS, gt=0, description="of a missing output topic, with --create-topics")


def main(argv: Sequence[str]) -> int:
    """Run the router until SIGTERM or SIGINT, or create its topics; return the exit code."""
    settings = load(RouteCommand, argv, prog="loggpt-stream route", description=_DESCRIPTION)
    if settings.create_topics:
        asyncio.run(_create(settings))
        return 0
    configure(settings.log_format, settings.log_level)
    return run_until_signalled(Router(settings).run, failed="route_failed")


async def _create(settings: RouteCommand) -> None:
    """Create what is missing, and say what.

    Raises `UserError` where the broker does not answer, refuses, or does not let us see what is missing.
    """
    counts = {"input topic": _RAW_PARTITIONS, "output topic": settings.partitions}
    try:
        async with kafka_client(settings.kafka) as client:
            cluster = await look_up(client, settings.topics().values())
            if cluster.hidden:
                who, what = settings.kafka.username or "an anonymous user", ", ".join(sorted(cluster.hidden))
                raise UserError(
                    f"{who} may not describe {what}: whether it is there cannot be told, and nothing was created. For "
                    "whoever sets up, deploy/kafka/acls.sh create-route-topics gives the rights"
                )
            created = await create_topics(client, settings, cluster, counts)
    except (KafkaError, OSError, TimeoutError) as error:
        raise UserError(await why_not(settings.kafka) or f"{settings.kafka.bootstrap}: {explain(error)}") from error
    print("\n".join(created) or "every topic is there")
