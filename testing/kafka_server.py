"""A real Apache Kafka (KRaft, no ZooKeeper) for tests: one to three brokers on free ports of this machine.

    with KafkaServer(tmp_path) as kafka:
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)

The jars come from Maven Central once and are kept in `$LOGGPT_TEST_CACHE` (default `~/.cache/loggpt-stream`). Brokers
die with the process that started them, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from testing.kafka_security import LISTENERS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from testing.kafka_security import Security

KAFKA_VERSION: Final = "4.4.0"
_MIN_JAVA: Final = 17
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 20.0
_DOWNLOAD_TIMEOUT_S: Final = 900.0
# Below Linux's range for outgoing connections, so that nobody takes a stopped broker's port before it is back.
_PORTS: Final = range(20_000, 32_000)
_MOST_WORKERS: Final = 16

_COPY_PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
_POM: Final = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>loggpt-stream</groupId><artifactId>test-kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <!-- writes the broker's log to its standard error -->
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


def missing_programs() -> str:
    """Return what this machine lacks to run Kafka, as a sentence that says what to install, or "" if nothing."""
    wanted = []
    if _java_major() < _MIN_JAVA:
        wanted.append(f"openjdk-{_MIN_JAVA}-jre-headless (or newer)")
    if shutil.which("mvn") is None and not _libs_folder().is_dir():
        wanted.append("maven")
    return f"needs Apache Kafka {KAFKA_VERSION}: install {' and '.join(wanted)}" if wanted else ""


def _java_major() -> int:
    java = shutil.which("java")
    if java is None:
        return 0
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', told.stderr)
    return int(found[1]) if found else 0


def _libs_folder() -> Path:
    cache = os.environ.get("LOGGPT_TEST_CACHE") or Path.home() / ".cache" / "loggpt-stream"
    return Path(cache) / f"kafka-{KAFKA_VERSION}"


def kafka_libs() -> Path:
    """Return the folder of Kafka's jars, fetched with Maven if it is not there yet (about 80 MB).

    Raises:
        RuntimeError: Maven failed; the message ends with what it said.
    """
    libs = _libs_folder()
    libs.parent.mkdir(parents=True, exist_ok=True)
    with (libs.parent / f"{libs.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not libs.is_dir():
            with tempfile.TemporaryDirectory(dir=libs.parent) as work:
                _fetch(Path(work))
                (Path(work) / "libs").rename(libs)
    return libs


def _fetch(work: Path) -> None:
    (work / "pom.xml").write_text(_POM)
    # -U: Maven remembers a failed download for a day and would not try again.
    command = ["mvn", "-B", "-U", "-f", str(work / "pom.xml"), f"{_COPY_PLUGIN}:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={work / 'libs'}"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_TIMEOUT_S)
    if told.returncode != 0:
        raise RuntimeError(
            f"Maven could not fetch Apache Kafka {KAFKA_VERSION}:\n{told.stdout[-2000:]}{told.stderr[-500:]}"
        )


@dataclass(frozen=True, slots=True)
class Listener:
    """A further address of a broker: where it listens, and where it tells clients that come there to go (host:port)."""

    bind: str
    advertised: str


@dataclass(slots=True)
class _Broker:
    node: int
    port: int
    controller_port: int
    folder: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None


@dataclass(slots=True)
class KafkaServer:
    """Brokers from `with` to the end of its block; each is broker and controller at once.

    folder: where logs and data go; the data is removed at the end, the brokers' own logs stay.
    brokers: how many. heap_mb: Java heap of each. settings: of each broker, over those that all tests want.
    security: further listeners that want a login, of a single broker. further: one more address for each broker (none),
    for a proxy or another network before it.
    """

    folder: Path
    brokers: int = 1
    heap_mb: int = 300
    settings: Mapping[str, object] = field(default_factory=dict)
    security: Security | None = None
    further: Sequence[Listener] = ()
    _nodes: list[_Broker] = field(default_factory=list)
    # A broker dies with the *thread* that started it: so one thread, which lives as long as this object is in use.
    _keeper: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "kafka-keeper"))

    @property
    def bootstrap(self) -> str:
        """Return every broker's address, as clients take it, stopped brokers included."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)

    def __enter__(self) -> Self:
        libs = kafka_libs()
        self.folder.mkdir(parents=True, exist_ok=True)
        # Nobody listens yet on the ports that a proxy will have.
        promised = {int(each.rpartition(":")[2]) for one in self.further for each in (one.bind, one.advertised)}
        ports = free_ports(2 * self.brokers, besides=promised)
        for place in range(self.brokers):
            folder = self.folder / f"broker-{place}"
            folder.mkdir()
            log = self.folder / f"broker-{place}.log"
            self._nodes.append(_Broker(place, ports[2 * place], ports[2 * place + 1], folder, log))
        try:
            self._format(libs)
            for node in self._nodes:
                self._launch(node)
            self._await_brokers(self.brokers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._nodes:
            self.kill_broker(node.node)
            shutil.rmtree(node.folder, ignore_errors=True)
        self._keeper.shutdown()

    def stop_broker(self, node: int) -> None:
        """End a broker as an operator would (SIGTERM: it hands over its partitions), and wait for it."""
        self._end(node, signal.SIGTERM)

    def kill_broker(self, node: int) -> None:
        """End a broker as a crash would (SIGKILL), and wait for it."""
        self._end(node, signal.SIGKILL)

    def start_broker(self, node: int) -> None:
        """Start a stopped broker on its old port with its old data, and wait until clients can use it."""
        self._launch(self._nodes[node])
        self._await_brokers(sum(other.process is not None for other in self._nodes))

    def freeze_broker(self, node: int) -> None:
        """Let a broker hold still (SIGSTOP): its connections stay, and nothing is answered."""
        self._signal(node, signal.SIGSTOP)

    def thaw_broker(self, node: int) -> None:
        """Let a frozen broker go on."""
        self._signal(node, signal.SIGCONT)

    def broker_logs(self, lines: int = 60) -> str:
        """Return the last lines of each broker's own log."""
        tails = []
        for node in self._nodes:
            text = node.log.read_text(errors="replace") if node.log.exists() else ""
            tails.append(f"--- broker {node.node} (port {node.port}) ---\n" + "\n".join(text.splitlines()[-lines:]))
        return "\n".join(tails)

    def _format(self, libs: Path) -> None:
        # It begins with a letter: an id that begins with a minus is taken for an option.
        cluster_id = "K" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        voters = ",".join(f"{node.node}@127.0.0.1:{node.controller_port}" for node in self._nodes)
        for node in self._nodes:
            properties = _properties(node, voters, self.brokers, self.settings, self.further)
            command = [*_java(libs, 128), "kafka.tools.StorageTool", "format", "-t", cluster_id]
            if self.security is not None:
                promised = {port for other in self._nodes for port in (other.port, other.controller_port)}
                properties = _secured(properties, self.security, promised)
                command += self.security.format_options()
            (node.folder / "server.properties").write_text(properties)
            told = subprocess.run(
                [*command, "-c", str(node.folder / "server.properties")], capture_output=True, text=True, check=False
            )
            if told.returncode != 0:
                raise RuntimeError(f"Kafka's storage could not be formatted:\n{told.stdout}{told.stderr}")

    def _launch(self, node: _Broker) -> None:
        command = [*_java(kafka_libs(), self.heap_mb), "kafka.Kafka", str(node.folder / "server.properties")]
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            command = [setpriv, "--pdeathsig", "KILL", *command]
        with node.log.open("ab") as log:
            node.process = self._keeper.submit(_start, command, log).result()

    def _signal(self, node: int, what: signal.Signals) -> None:
        process = self._nodes[node].process
        if process is not None:
            process.send_signal(what)

    def _end(self, node: int, how: signal.Signals) -> None:
        broker = self._nodes[node]
        if broker.process is None:
            return
        broker.process.send_signal(how)
        try:
            broker.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            broker.process.kill()
            broker.process.wait()
        broker.process = None

    def _await_brokers(self, count: int) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        running = [node for node in self._nodes if node.process is not None]
        while not all(_listens(node.port) for node in running) or _brokers_seen(running[0].port) < count:
            dead = [node.node for node in running if node.process is not None and node.process.poll() is not None]
            if dead or time.monotonic() > deadline:
                what = f"broker {dead[0]} ended at once" if dead else f"not ready within {_START_TIMEOUT_S:.0f} s"
                raise RuntimeError(f"Apache Kafka did not start ({what}):\n{self.broker_logs()}")
            time.sleep(0.1)


def _start(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def _java(libs: Path, heap_mb: int) -> list[str]:
    # Quick to start and light, at the price of peak speed: the serial collector and the first compiler tier only.
    tuning = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Xmx{heap_mb}m", "-Xms64m"]
    logging = ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"]
    return ["java", *tuning, *logging, "-cp", f"{libs}/*"]


def _properties(
    node: _Broker, voters: str, brokers: int, over: Mapping[str, object], further: Sequence[Listener]
) -> str:
    min_in_sync = min(2, brokers)
    more = [further[node.node]] if further else []
    binds = [f"PLAINTEXT://127.0.0.1:{node.port}", *(f"FURTHER://{each.bind}" for each in more)]
    advertised = [f"PLAINTEXT://127.0.0.1:{node.port}", *(f"FURTHER://{each.advertised}" for each in more)]
    settings = {
        "process.roles": "broker,controller",
        "node.id": node.node,
        "controller.quorum.voters": voters,
        "listeners": ",".join([*binds, f"CONTROLLER://127.0.0.1:{node.controller_port}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,FURTHER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": node.folder / "data",
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        # So that a test need not wait half a minute for a member that is gone to be missed.
        "group.min.session.timeout.ms": 1000,
        "num.network.threads": 2,
        "num.io.threads": 2,
        "default.replication.factor": brokers,
        "min.insync.replicas": min_in_sync,
        "offsets.topic.num.partitions": 3,
        "offsets.topic.replication.factor": brokers,
        "transaction.state.log.num.partitions": 3,
        "transaction.state.log.replication.factor": brokers,
        "transaction.state.log.min.isr": min_in_sync,
        # Recorded logs carry old timestamps; the default of a week would delete them under the test.
        "log.retention.ms": -1,
        # The default of 128 MB does not fit the heap.
        "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
        # A killed broker is missed sooner.
        "broker.session.timeout.ms": 4000,
        "broker.heartbeat.interval.ms": 500,
    }
    return "".join(f"{name}={value}\n" for name, value in {**settings, **over}.items())


def _secured(properties: str, security: Security, promised: Collection[int]) -> str:
    """Return a broker's settings with the listeners of `security` beside the others, which have `promised` ports."""
    ports = dict(zip(LISTENERS, free_ports(len(LISTENERS), besides=promised), strict=True))
    addresses = "".join(f",{name}://127.0.0.1:{port}" for name, port in ports.items())
    kinds = "".join(f",{name}:{protocol}" for name, protocol in LISTENERS.items())
    added = {"listeners": addresses, "advertised.listeners": addresses, "listener.security.protocol.map": kinds}
    lines = [line + added.get(line.partition("=")[0], "") for line in properties.splitlines()]
    lines += [f"{name}={value}" for name, value in security.properties(ports).items()]
    return "\n".join(lines) + "\n"


def free_ports(count: int, besides: Collection[int] = ()) -> list[int]:
    """Return so many ports of this machine that nobody listens on, none of them in `besides`.

    A port is free until a broker listens there, seconds later: each test process has ports of its own, so that two of
    them do not choose the same.
    """
    found: list[int] = []
    ports = _ports_of(os.environ.get("PYTEST_XDIST_WORKER", ""))
    for port in random.SystemRandom().sample(ports, k=len(ports)):
        if len(found) == count:
            break
        if port in besides:
            continue
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


def _ports_of(worker: str) -> range:
    """Return the ports of a test process that xdist calls "gw0", "gw1" and so on; all where there is but one."""
    if not worker:
        return _PORTS
    share = len(_PORTS) // _MOST_WORKERS
    first = _PORTS.start + int(worker.removeprefix("gw")) % _MOST_WORKERS * share
    return range(first, first + share)


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        trial.settimeout(1.0)
        return trial.connect_ex(("127.0.0.1", port)) == 0


def _brokers_seen(port: int) -> int:
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    try:
        return len(admin.list_topics(timeout=2.0).brokers)
    except KafkaException:
        return 0


def unique_name(stem: str) -> str:
    """Return a name for a topic, group or transactional id that no other test uses."""
    return f"{stem}-{uuid.uuid4().hex[:8]}"


async def create_topic(
    bootstrap: str, name: str, partitions: int = 1, configs: Mapping[str, str] | None = None
) -> None:
    """Create a topic on every running broker and wait until each partition has a leader.

    Raises:
        RuntimeError: the broker refused, or no leader came up within 30 s.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        replicas = len((await admin.describe_cluster())["brokers"])
        new = NewTopic(name, num_partitions=partitions, replication_factor=replicas, topic_configs=dict(configs or {}))
        answer = await admin.create_topics([new])
        for error in answer.topic_errors:
            if error[1] != 0:
                raise RuntimeError(f"topic {name} could not be created: error {error[1]} {error[2:]}")
        deadline = time.monotonic() + 30.0
        while not _has_leaders(await admin.describe_topics([name]), partitions):
            if time.monotonic() > deadline:
                raise RuntimeError(f"topic {name} has partitions without a leader after 30 s")
    finally:
        await admin.close()


class _NoText(str):
    """A header name as librdkafka's users may write one; aiokafka's own builder encodes it."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


async def produce_unreadable_header(bootstrap: str, topic: str, value: bytes) -> None:
    """Write a record to partition 0 that has a header whose name is no UTF-8."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        batch = producer.create_batch()
        # The compiled one takes no such name.
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 16_384)
        assert batch.append(timestamp=None, key=None, value=value, headers=[(_NoText("x"), b"")]) is not None
        batch.close()
        await (await producer.send_batch(batch, topic, partition=0))


def _has_leaders(topics: list[dict[str, object]], partitions: int) -> bool:
    found = topics[0]["partitions"] if topics else []
    if not isinstance(found, list):
        return False
    return len(found) == partitions and all(part["leader"] >= 0 and part["error_code"] == 0 for part in found)
