"""A Kafka for demos inside a child process: librdkafka's mock cluster, which ships with confluent-kafka.

It serves groups, offsets and compressed records, makes each topic with four partitions when it is first asked for, and
keeps everything in memory. It does not fence, replicate or persist: it proves nothing about delivery.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from confluent_kafka import Producer

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Those of the daemon's default settings.
TOPICS: Final = ("openstack-logs", "loggpt-state", "loggpt-alerts", "loggpt-dead-letters")


@contextmanager
def embedded_broker() -> Iterator[str]:
    """Run a broker until the block ends; yield its bootstrap servers. Raises `UserError` where it does not start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loggpt_stream.demo.embedded_broker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is the demo's to handle
    )
    try:
        bootstrap = process.stdout.readline().strip() if process.stdout else ""
        if not bootstrap:
            raise UserError("the embedded broker did not start: is confluent-kafka installed whole?")
        yield bootstrap
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    """Serve until standard input closes: when the parent ends, however it ends, so does this."""
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none"})
    brokers = producer.list_topics(timeout=10).brokers.values()
    for topic in TOPICS:
        producer.list_topics(topic, timeout=10)  # asking for it makes it, each with as many partitions
    sys.stdout.write(",".join(f"{broker.host}:{broker.port}" for broker in brokers) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
