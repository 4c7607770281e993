"""`loggpt-stream doctor`: would the daemon start here, and if not, what to do."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.errors import UserError
from loggpt_stream.logs import configure
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.model.gpt import choose_device
from loggpt_stream.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DESCRIPTION: Final = """\
Check what the daemon needs, with the daemon's own settings: bundle, device, HTTP port, broker, topics.

  loggpt-stream doctor --config configs/daemon.yaml

Prints one row a check with what to do about each finding; exits with 1 where the daemon could not work."""

_ANSWER_WITHIN_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: whether it is as it should be, what was found, and what to do if not."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


def main(argv: Sequence[str]) -> int:
    """Print every finding; return 1 where one is not ok."""
    settings = load(DaemonSettings, argv, prog="loggpt-stream doctor", description=_DESCRIPTION)
    configure(level="error")
    findings = [*check_host(settings), *asyncio.run(check_kafka(settings))]
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check:<10}  {finding.found}")
        if finding.remedy:
            print(f"      {'':<10}  → {finding.remedy}")
    return 0 if all(finding.ok for finding in findings) else 1


def check_host(settings: DaemonSettings) -> Iterator[Finding]:
    """Yield the findings on bundle, device and port."""
    try:
        bundle = load_bundle(settings.bundle)
    except UserError as error:
        yield Finding("bundle", ok=False, found=str(error))
    else:
        kinds = ", ".join(
            f"{kind}: {each.combination} > {each.threshold:.2f}, false alarms {each.false_alarm_rate:.2%}"
            for kind, each in (bundle.calibration.kinds if bundle.calibration else {}).items()
        )
        yield Finding("bundle", ok=True, found=f"{settings.bundle} model {bundle.model_fingerprint} ({kinds})")
    try:
        yield Finding("device", ok=True, found=str(choose_device(settings.device)))
    except UserError as error:
        yield Finding("device", ok=False, found=str(error))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.http_host, settings.http_port))
        except OSError as error:
            yield Finding(
                "http port",
                ok=False,
                found=f"{settings.http_port} on {settings.http_host}: {error.strerror}",
                remedy="stop what listens there, or choose another with --http-port",
            )
        else:
            yield Finding("http port", ok=True, found=f"{settings.http_port} is free")


async def check_kafka(settings: DaemonSettings) -> list[Finding]:
    """Return the findings on broker and topics."""
    bootstrap = settings.kafka.bootstrap
    try:
        client = AIOKafkaAdminClient(**settings.kafka.client_options())
    except UserError as error:
        return [Finding("broker", ok=False, found=str(error))]
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            await client.start()
            topics = {topic["topic"]: topic for topic in await client.describe_topics()}
    except (KafkaError, OSError, TimeoutError) as error:
        return [
            Finding(
                "broker",
                ok=False,
                found=f"{bootstrap} does not answer: {error!r}",
                remedy="check --kafka.bootstrap, the network between, and kafka.security_protocol",
            )
        ]
    finally:
        await client.close()
    findings = [Finding("broker", ok=True, found=f"{bootstrap} answers, {len(topics)} topics")]
    wanted = [settings.input_topic, settings.alert_topic, settings.dead_letter_topic, settings.score_topic]
    for name in filter(None, wanted):
        topic = topics.get(name)
        if topic is None:
            findings.append(
                Finding(
                    "topic",
                    ok=False,
                    found=f"{name} does not exist",
                    remedy=f"kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {name} --partitions 4",
                )
            )
        else:
            findings.append(Finding("topic", ok=True, found=f"{name}, {len(topic['partitions'])} partitions"))
    return findings
