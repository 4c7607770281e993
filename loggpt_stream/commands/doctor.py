"""`loggpt-stream doctor`: would the daemon start here, and if not, what to do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from aiokafka.errors import BrokerResponseError, KafkaError
from pydantic import Field

from loggpt_stream.checks.cluster import check_brokers, check_permissions, check_version
from loggpt_stream.checks.create import DEFAULT_PARTITIONS, create_topics
from loggpt_stream.checks.group import check_group
from loggpt_stream.checks.host import check_bundle, check_device, check_port
from loggpt_stream.checks.topics import check_topics
from loggpt_stream.checks.traffic import check_traffic
from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.connection import explain, why_not
from loggpt_stream.kafka.topics import Finding, Level, kafka_client, look_up
from loggpt_stream.logs import configure
from loggpt_stream.settings import load
from loggpt_stream.terminal import coloured, printable, width, wrapped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from loggpt_stream.model.bundle import Bundle

_DESCRIPTION: Final = """\
Check what the daemon needs, with the daemon's own settings, and say what to do about each finding.

  loggpt-stream doctor --config configs/daemon.yaml
  loggpt-stream doctor --config configs/daemon.yaml --create-topics --partitions 8

On this machine: bundle, device, HTTP port. In Kafka: brokers and version; whether the group may be joined and
transactions be used; whether the topics exist and keep what they are given (partitions, compaction, replicas, retention
against the longest session); who is in the group and how far behind it is. In the newest records of the input: whether
a session's lines are on one partition, how many belong to no session, which shapes they have, what is undecodable, and
whether clocks run ahead. Nothing is written but an empty, aborted transaction.

--create-topics first makes the topics that are missing: the state topic compacted and with as many partitions as the
input; the input with --partitions (4), if it is missing too; each with up to 3 replicas, of which 2 in sync. What
exists is left as it is.

Exits with 1 where there is a failure: the daemon would not start, or would lose or mistake something. A warning is
worth a look."""

_COLOUR: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red"}
_CHECK_COLUMNS: Final = 18
_FOUND_AT: Final = 6 + _CHECK_COLUMNS


class DoctorSettings(DaemonSettings):
    """Settings of `loggpt-stream doctor`: the daemon's, and what to create."""

    create_topics: bool = Field(default=False, description="create the topics that are missing, then check")
    partitions: int | None = Field(None, gt=0, description="of a missing input topic, with --create-topics (4)")


def main(argv: Sequence[str]) -> int:
    """Print every finding; return 1 where one is a failure."""
    settings = load(DoctorSettings, argv, prog="loggpt-stream doctor", description=_DESCRIPTION)
    configure(level="error")
    return asyncio.run(_examine(settings))


async def _examine(settings: DoctorSettings) -> int:
    bundle_finding, bundle = check_bundle(settings)
    levels = [_show(each) for each in (bundle_finding, check_device(settings), check_port(settings))]
    levels += [_show(each) async for each in check_kafka(settings, bundle)]
    failures, warnings = levels.count(Level.FAILURE), levels.count(Level.WARNING)
    if not failures and not warnings:
        print(coloured("\nAll is well. Start the daemon with the same settings: loggpt-stream run", "bold"))
    else:
        said = [
            f"{count} {what}{'s' * (count > 1)}"
            for count, what in ((failures, "failure"), (warnings, "warning"))
            if count
        ]
        end = "put the failures right before the daemon starts" if failures else "the daemon can start"
        print(coloured(f"\n{' and '.join(said)}: {end}", "bold"))
    return 1 if failures else 0


def _show(finding: Finding) -> Level:
    mark = coloured(f"{finding.level:<4}", _COLOUR[finding.level])
    print(f"{mark}  {finding.check:<{_CHECK_COLUMNS}}{wrapped(printable(finding.found), _FOUND_AT, width())}")
    if finding.remedy:
        # Not wrapped: many are commands to copy.
        print(f"{'':<{_FOUND_AT}}→ {printable(finding.remedy)}")
    return finding.level


async def check_kafka(settings: DoctorSettings, bundle: Bundle | None) -> AsyncIterator[Finding]:
    """Yield the findings on brokers, topics, input and group; first create what is missing, where that is asked for."""
    try:
        async with kafka_client(settings.kafka) as client:
            cluster = await look_up(client, settings.topics().values())
            yield check_brokers(settings, cluster)
            yield await check_version(client)
            if settings.create_topics:
                counts = {"input topic": settings.partitions or DEFAULT_PARTITIONS}
                for created in await create_topics(client, settings, cluster, counts):
                    yield Finding("created", Level.OK, created)
                cluster = await look_up(client, settings.topics().values())
            for finding in check_topics(settings, cluster, bundle):
                yield finding
            for finding in await check_permissions(client, settings, cluster):
                yield finding
        source = cluster.topics.get(settings.input_topic)
        if source is not None and not source.leaderless:
            rules = bundle.preprocessing.session_rules if bundle else None
            for finding in await check_traffic(settings, source, rules, time.time()):
                yield finding
            yield await check_group(settings, source)
    except UserError as error:
        yield Finding("brokers", Level.FAILURE, str(error))
    except BrokerResponseError as error:
        found = f"{settings.kafka.bootstrap}: {explain(error)}"
        yield Finding("brokers", Level.FAILURE, found, "run the doctor again when that is put right")
    except (KafkaError, OSError, TimeoutError) as error:
        reason = await why_not(settings.kafka) or f"{settings.kafka.bootstrap}: {explain(error)}"
        yield Finding("brokers", Level.FAILURE, reason, "run the doctor again when that is put right")
