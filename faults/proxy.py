"""A TCP proxy before Kafka brokers that can fail as networks do, and at a chosen request.

    ways = routes(brokers=3)
    with KafkaServer(folder, brokers=3, further=[way.listener for way in ways]):
      async with KafkaProxy(ways) as proxy:
        cut = proxy.cut_at(END_TXN, "response")     # the broker has acted, the client never hears of it
        ...                                         # clients bootstrap from proxy.bootstrap
        await cut.wait()

Kafka clients go where the brokers tell them to, so each broker has a further listener that advertises the proxy's port.
Only plaintext can be proxied: what is cut at is found in the request header (API key) and, for a response, by the
correlation id of its request. https://kafka.apache.org/protocol.html
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self

from testing.kafka_server import Listener, free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

PRODUCE: Final = 0
FETCH: Final = 1
OFFSET_COMMIT: Final = 8
JOIN_GROUP: Final = 11
HEARTBEAT: Final = 12
INIT_PRODUCER_ID: Final = 22
ADD_PARTITIONS_TO_TXN: Final = 24
END_TXN: Final = 26
TXN_OFFSET_COMMIT: Final = 28

_HOST: Final = "127.0.0.1"

Moment = Literal["request", "response"]
Direction = Literal["to_broker", "to_client"]


@dataclass(frozen=True, slots=True)
class Route:
    """From a port that clients come to, to the one that the broker listens on for them."""

    proxy_port: int
    broker_port: int

    @property
    def listener(self) -> Listener:
        """Return the listener that the broker needs."""
        return Listener(bind=f"{_HOST}:{self.broker_port}", advertised=f"{_HOST}:{self.proxy_port}")


def routes(brokers: int) -> list[Route]:
    """Return a route of free ports for each broker."""
    ports = free_ports(2 * brokers)
    return [Route(ports[2 * place], ports[2 * place + 1]) for place in range(brokers)]


@dataclass(slots=True, eq=False)
class Cut:
    """A cut that waits for its request. `fired` says how often it came about."""

    api_key: int
    moment: Moment
    left: int
    fired: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, timeout_s: float = 60.0) -> None:
        """Wait until it has come about as often as it was to. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            await self._changed.wait()

    def hits(self, api_key: int, moment: Moment) -> bool:
        """Tell whether a connection is to be cut here, and count it."""
        if not self.left or (api_key, moment) != (self.api_key, self.moment):
            return False
        self.left -= 1
        self.fired += 1
        if not self.left:
            self._changed.set()
        return True


@dataclass(slots=True, eq=False)
class _Connection:
    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter | None = None
    # What the broker still owes an answer to: correlation id → API key.
    asked: dict[int, int] = field(default_factory=dict)

    def cut(self) -> None:
        """End both sides with a reset: nothing that is under way arrives."""
        for writer in (self.client, self.broker):
            if writer is None:
                continue
            connected: socket.socket | None = writer.get_extra_info("socket")
            if connected is not None:
                with contextlib.suppress(OSError):
                    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class BrokerProxy:
    """The proxy before one broker. While it is started, clients can connect unless `refuse` says no."""

    def __init__(self, route: Route, cuts: list[Cut]) -> None:
        """`cuts` may be shared with the other brokers' proxies."""
        self.route = route
        self.delay_s = 0.0
        self.connections_made = 0
        self._cuts = cuts
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[Direction, asyncio.Event] = {"to_broker": asyncio.Event(), "to_client": asyncio.Event()}
        for each in self._open.values():
            each.set()

    async def accept(self) -> None:
        """Let clients connect (again)."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, _HOST, self.route.proxy_port)

    async def refuse(self) -> None:
        """Refuse new connections. Those that there are go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    def cut(self) -> int:
        """Reset every connection; return how many there were."""
        cut = list(self._connections)
        for connection in cut:
            connection.cut()
        return len(cut)

    def black_hole(self, *directions: Direction) -> None:
        """Forward nothing in these directions (none named: in both), on any connection, and say nothing."""
        for direction in directions or self._open:
            self._open[direction].clear()

    def heal(self) -> None:
        """Forward again, without delay, what was held up too: as TCP sends again what a network lost."""
        self.delay_s = 0.0
        for each in self._open.values():
            each.set()

    async def close(self) -> None:
        """End all of it."""
        await self.refuse()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        connection = _Connection(client)
        self._connections.add(connection)
        self.connections_made += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._open["to_broker"].wait()
            from_broker, broker = await asyncio.open_connection(_HOST, self.route.broker_port)
            connection.broker = broker
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(connection, reader, broker, "to_broker"))
                both.create_task(self._forward(connection, from_broker, client, "to_client"))
        except* (OSError, EOFError, _CutError):
            pass  # either side's end is the other's
        finally:
            self._connections.discard(connection)
            connection.cut()

    async def _forward(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Forward whole requests or responses until one side ends, which raises."""
        while True:
            size = await source.readexactly(4)
            body = await source.readexactly(int.from_bytes(size, "big"))
            api_key, moment = self._seen(connection, body, direction)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._open[direction].wait()
            if any(cut.hits(api_key, moment) for cut in self._cuts):
                raise _CutError
            sink.write(size + body)
            await sink.drain()

    @staticmethod
    def _seen(connection: _Connection, body: bytes, direction: Direction) -> tuple[int, Moment]:
        if direction == "to_broker":
            api_key, _, correlation = struct.unpack_from(">hhi", body)
            connection.asked[correlation] = api_key
            return api_key, "request"
        (correlation,) = struct.unpack_from(">i", body)
        return connection.asked.pop(correlation, -1), "response"


class KafkaProxy:
    """The proxies before all brokers of a cluster, in broker order."""

    def __init__(self, ways: Sequence[Route]) -> None:
        self._cuts: list[Cut] = []
        self.brokers = [BrokerProxy(route, self._cuts) for route in ways]

    @property
    def bootstrap(self) -> str:
        """Return the address that clients are to take."""
        return ",".join(f"{_HOST}:{each.route.proxy_port}" for each in self.brokers)

    def cut_at(self, api_key: int, moment: Moment, times: int = 1) -> Cut:
        """Cut the next connections on which this passes.

        request: before the broker sees it. response: after the broker has acted, before the client hears.
        """
        cut = Cut(api_key, moment, times)
        self._cuts[:] = [each for each in self._cuts if each.left] + [cut]
        return cut

    def cut(self) -> int:
        """Reset every connection; return how many there were."""
        return sum(each.cut() for each in self.brokers)

    def heal(self) -> None:
        """Forward everything again, without delay, and forget the cuts that have not come about."""
        self._cuts.clear()
        for each in self.brokers:
            each.heal()

    async def __aenter__(self) -> Self:
        for each in self.brokers:
            await each.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.heal()
        for each in self.brokers:
            await each.close()


class _CutError(Exception):
    """This connection is to be cut."""
