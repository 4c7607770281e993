"""Slots: what changes from one replay of a session to the next, and the fresh values that go there.

In a text a slot is one private-use character, which no JSON writer escapes: a shipper can shape the text with its slots
and need not know about them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from loggpt_stream.simulator.library import RecordedSession

# Ways to write the time of a line. Each is a slot of its own.
TIME_TEXT: Final = "\ue000"  # 2026-11-23 14:08:09.531
TIME_COMMA: Final = "\ue001"  # 2026-11-23 14:08:09,531
TIME_ISO: Final = "\ue002"  # 2026-11-23T14:08:09.531Z
TIME_EPOCH: Final = "\ue003"  # 1795442889.531
TIME_NANOS: Final = "\ue004"  # 1795442889531000000

_FIRST_SLOT: Final = 0xF0000
_SLOT: Final = re.compile(f"[{TIME_TEXT}-{TIME_NANOS}{chr(_FIRST_SLOT)}-{chr(0xFFFFD)}]")

_X: Final = "[0-9a-f]"
_UUIDS: Final = re.compile(rf"(?<!{_X}){_X}{{8}}-{_X}{{4}}-{_X}{{4}}-{_X}{{4}}-{_X}{{12}}(?!{_X})")
_VARYING: Final = re.compile(
    rf"(?P<uuid>{_UUIDS.pattern})"
    rf"|(?P<device>(?<=tap)(?<!\wtap){_X}{{8}}-{_X}{{2}}(?!{_X}))"
    rf"|(?P<hash>(?<!{_X}){_X}{{32}}(?!{_X}))"
    rf"|(?P<mac>(?<![\w:]){_X}{{2}}(?::{_X}{{2}}){{5}}(?![\w:]))"
    rf"|(?P<number>(?<=instance-){_X}{{8}}(?!{_X}))"
    r"|(?P<host>(?:compute|ctl)-\d\d(?!\d))"
)
_HEADER: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (\d+) (?=[A-Z]+ )")

# Who logged in the recordings, by process id (from the host names in the JSON form of the same recording).
PROCESSES: Final = {
    "7120": ("nova-compute", "compute-01"),
    "6884": ("nova-compute", "compute-02"),
    "7033": ("nova-compute", "compute-03"),
    "2711": ("nova-api", "ctl-01"),
    "2902": ("nova-scheduler", "ctl-01"),
    "2845": ("nova-conductor", "ctl-01"),
}
_COMPUTE_HOSTS: Final = 99  # two digits, as recorded: the masked text of a line shows how many there are
_CONTROL_HOSTS: Final = 3
_FIRST_PID: Final = {"nova-compute": 7000, "nova-api": 2700, "nova-scheduler": 2900, "nova-conductor": 2800}

_ODD: Final = 0x9E3779B1  # multiplying by it spreads a counter over all bits and repeats none


class Slots:
    """The slots of one recorded session: finds what varies in its lines, and makes fresh values for it."""

    def __init__(self, session: RecordedSession) -> None:
        """Start with the session's own id, which is the first slot, and then all other UUIDs.

        A tap device is named after its port, so the ports' UUIDs have to be there before the devices.
        """
        self._slot_of: dict[tuple[str, str], str] = {}
        if session.instance:
            self._slot("uuid", session.instance)
        for event in session.events:
            for line in event.lines:
                for uuid in _UUIDS.findall(line):
                    self._slot("uuid", uuid)

    def mark(self, line: str) -> str:
        """Return `line` with a slot in place of everything that varies."""
        header = _HEADER.match(line)
        if header is None:
            return _VARYING.sub(self._found, line)
        pid = self._slot("pid", header[2])
        return f"{TIME_TEXT} {pid} {_VARYING.sub(self._found, line[header.end() :])}"

    def host(self, pid: str) -> tuple[str, str]:
        """Return the service and the host's slot of a recorded process."""
        service, host = PROCESSES[pid]
        return service, self._slot("host", host)

    def _found(self, match: re.Match[str]) -> str:
        return self._slot(str(match.lastgroup), match.group())

    def _slot(self, kind: str, recorded: str) -> str:
        slot = self._slot_of.get((kind, recorded))
        if slot is None:
            if kind == "pid":
                self.host(recorded)  # its host's slot comes first: the fresh pid depends on the fresh host
            slot = self._slot_of[kind, recorded] = chr(_FIRST_SLOT + len(self._slot_of))
        return slot

    def maker(self) -> Callable[[Fresh, list[str]], None]:
        """Return a function that appends fresh values for all slots, in order. Call it when every line is marked."""
        recipe = [self._recipe(kind, recorded) for kind, recorded in self._slot_of]
        hosts = [recorded for kind, recorded in self._slot_of if kind == "host"]

        def make(fresh: Fresh, values: list[str]) -> None:
            on = fresh.hosts(hosts)
            first = len(values)
            for kind, of in recipe:
                if kind == "uuid":
                    values.append(fresh.uuid())
                elif kind == "hash":
                    values.append(fresh.hash())
                elif kind == "port":
                    values.append(values[first + int(of)][:11])
                elif kind == "device":
                    values.append(fresh.uuid()[:11])
                elif kind == "mac":
                    values.append(fresh.mac())
                elif kind == "number":
                    values.append(fresh.number())
                elif kind == "host":
                    values.append(on[of])
                else:
                    service, host = PROCESSES[of]
                    values.append(str(_FIRST_PID[service] + int(on[host][-2:])))

        return make

    def _recipe(self, kind: str, recorded: str) -> tuple[str, str]:
        """Return how a slot is filled: its kind, and the recorded host or process, or the number of its port's slot."""
        if kind == "device":
            for number, (other, text) in enumerate(self._slot_of):
                if other == "uuid" and text.startswith(recorded):
                    return "port", str(number)
        return kind, recorded


class Fresh:
    """Makes ids that it has not made before, from one seeded random source."""

    def __init__(self, rng: random.Random) -> None:
        """Start from `rng`; its state decides everything."""
        self._bits = rng.getrandbits
        self._sample = rng.sample
        self._macs = count(1)
        self._numbers = count(1)

    def uuid(self) -> str:
        """Return a random UUID (version 4)."""
        digits = f"{self._bits(120):030x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-a{digits[15:18]}-{digits[18:]}"

    def hash(self) -> str:
        """Return 32 random hex digits, as Keystone's ids of users and projects."""
        return f"{self._bits(128):032x}"

    def mac(self) -> str:
        """Return a MAC address with Neutron's prefix; the first 2**24 differ."""
        digits = f"{next(self._macs) * _ODD & 0xFFFFFF:06x}"
        return f"fa:16:3e:{digits[:2]}:{digits[2:4]}:{digits[4:]}"

    def number(self) -> str:
        """Return the number of an instance's libvirt name, in hex."""
        return f"{next(self._numbers):08x}"

    def hosts(self, recorded: list[str]) -> dict[str, str]:
        """Return a host for each recorded one: different ones for different ones."""
        computes = [name for name in recorded if name.startswith("compute")]
        picked = self._sample(range(1, _COMPUTE_HOSTS + 1), len(computes))
        hosts = {name: f"compute-{number:02}" for name, number in zip(computes, picked, strict=True)}
        for name in recorded:
            if name not in hosts:
                hosts[name] = f"ctl-{1 + self._bits(16) % _CONTROL_HOSTS:02}"
        return hosts


class Form:
    """One record's text, ready to be filled: slots in, text out."""

    __slots__ = ("_format", "_pick")

    def __init__(self, text: str, times: tuple[str, ...]) -> None:
        """Take a text with slots. Raises `ValueError` where a time's slot is not among `times`."""
        places = [
            times.index(slot) if slot <= TIME_NANOS else ord(slot) - _FIRST_SLOT + len(times)
            for slot in _SLOT.findall(text)
        ]
        self._format = _SLOT.sub("%s", text.replace("%", "%%")) if places else text
        # For a single place itemgetter gives no tuple; `%` takes a single text just as well.
        self._pick = itemgetter(*places) if places else None

    def fill(self, values: list[str]) -> str:
        """Return the text. `values`: the line's time in each of `times`, then those of the session's slots."""
        return self._format % self._pick(values) if self._pick else self._format


class Clock:
    """Writes times. They mostly follow each other closely, so that the second is remembered."""

    def __init__(self, times: tuple[str, ...]) -> None:
        """Write each of `times`, slots from above."""
        self._writers = [_TIME_WRITERS[slot] for slot in times]
        self._second = -1
        self._text = ""

    def write(self, time_ms: int, values: list[str]) -> None:
        """Put `time_ms` (epoch milliseconds), written in each way, at the beginning of `values`."""
        second, ms = divmod(time_ms, 1000)
        if second != self._second:
            self._second = second
            self._text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"
        for place, write in enumerate(self._writers):
            values[place] = write(self._text, second, ms)


_TIME_WRITERS: Final[dict[str, Callable[[str, int, int], str]]] = {
    TIME_TEXT: lambda text, _, ms: f"{text}.{ms:03}",
    TIME_COMMA: lambda text, _, ms: f"{text},{ms:03}",
    TIME_ISO: lambda text, _, ms: f"{text[:10]}T{text[11:]}.{ms:03}Z",
    TIME_EPOCH: lambda _, second, ms: f"{second}.{ms:03}",
    TIME_NANOS: lambda _, second, ms: f"{second}{ms:03}000000",
}
