"""How many records a second `loggpt-stream route` moves, beside a plain aiokafka loop that copies them.

    python -m benchmarks.route_throughput --records 200000 --repeats 3

Both run on the same broker, one after the other, over the same records (the recorded logs again and again): one raw
partition in, four partitions out, zstd. The plain loop decodes nothing, promises nothing, and sends each record by
`send()`. Wall clock seconds hold the broker's work and whatever else the machine does; CPU seconds are our own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.route_sessions import recorded
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.logs import configure
from loggpt_stream.route.service import Router
from loggpt_stream.route.settings import RouteSettings
from testing.daemon_process import produce
from testing.kafka_server import KafkaServer, create_topic, unique_name

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

OUTPUTS = 4


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds for all records, by the wall clock and of CPU."""

    wall_s: float
    cpu_s: float


async def plain(bootstrap: str, raw: str, output: str, count: int) -> Took:
    """Copy all records with a consumer and a producer as their documentation has it."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", compression_type="zstd", linger_ms=5)
    async with consumer, producer:
        consumer.assign([TopicPartition(raw, 0)])
        copied, began_s, cpu_s = 0, time.perf_counter(), time.process_time()
        while copied < count:
            for records in (await consumer.getmany(timeout_ms=200, max_records=500)).values():
                sent = [
                    await producer.send(
                        output, record.value, key=b"%d" % record.offset, timestamp_ms=record.timestamp,
                        headers=list(record.headers),
                    )
                    for record in records
                ]  # fmt: skip
                await asyncio.gather(*sent)
                copied += len(records)
        return Took(time.perf_counter() - began_s, time.process_time() - cpu_s)


async def route(bootstrap: str, raw: str, output: str, count: int) -> Took:
    """Route all records, from the moment that the partition is taken over."""
    state = unique_name("state")
    await create_topic(bootstrap, state, configs={"cleanup.policy": "compact"})
    router = Router(
        RouteSettings(
            kafka=KafkaSettings(bootstrap=bootstrap),
            input_topic=raw,
            output_topic=output,
            state_topic=state,
            group=unique_name("group"),
            http_port=0,
            http_host="127.0.0.1",
        )
    )
    stop = asyncio.Event()
    running = asyncio.create_task(router.run(stop))
    while not router.health.partitions:
        await asyncio.sleep(0.005)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    while sum(sample.value for sample in _samples(router)) < count:
        await asyncio.sleep(0.02)
    took = Took(time.perf_counter() - began_s, time.process_time() - cpu_s)
    stop.set()
    await running
    return took


def _samples(router: Router) -> list[Sample]:
    return [
        each for metric in router.metrics.routed.collect() for each in metric.samples if each.name.endswith("_total")
    ]


async def measure(bootstrap: str, count: int, repeats: int) -> None:
    """Measure both in turn, and print the median of each."""
    raw = unique_name("raw")
    await create_topic(bootstrap, raw)
    values = [record.value for name in ("nova34.log.xz", "nova34-day2.log.xz") for record in recorded(name)]
    await produce(bootstrap, raw, islice(cycle(values), count))
    took: dict[str, list[Took]] = {"plain": [], "route": []}
    for _ in range(repeats):
        for name, copy in (("plain", plain), ("route", route)):
            output = unique_name("output")
            await create_topic(bootstrap, output, partitions=OUTPUTS)
            took[name].append(await copy(bootstrap, raw, output, count))
    rates = {
        name: (count / statistics.median(t.wall_s for t in all_), count / statistics.median(t.cpu_s for t in all_))
        for name, all_ in took.items()
    }
    for name, (wall, cpu) in rates.items():
        print(f"{name:6} {wall:9,.0f} records/s, {cpu:9,.0f} records per CPU second")
    print(
        f"route / plain: {rates['route'][0] / rates['plain'][0]:.2f} by the wall clock, "
        f"{rates['route'][1] / rates['plain'][1]:.2f} by CPU"
    )


def main() -> None:
    """Start a broker and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000, help="records to move in each pass")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each; the median counts")
    options = parser.parse_args()
    configure(level="error")
    with tempfile.TemporaryDirectory() as scratch, KafkaServer(Path(scratch)) as kafka:
        asyncio.run(measure(kafka.bootstrap, options.records, options.repeats))


if __name__ == "__main__":
    main()
