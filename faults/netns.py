"""A network of its own for a daemon, with a cable to each broker that can be pulled.

    with Island(brokers=3) as island:
        KafkaServer(folder, brokers=3, further=island.listeners)
        fork_server.start(arguments, log_path, netns=island.name)     # bootstraps from island.bootstrap
        island.cut(1)                                            # the daemon cannot reach broker 1 any more
        island.join(1)

A Linux network namespace, joined by a pair of virtual Ethernet devices for each broker. A pulled cable loses packets
without a word to either side, as a partitioned network does, where a proxy can only stop forwarding. One more pair,
which is never cut, leads to the daemon's HTTP port. It needs root and `ip`.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from typing import Self

from testing.kafka_server import Listener, free_ports


def missing() -> str:
    """Return why network namespaces cannot be used here, as a sentence, or "" if they can."""
    if shutil.which("ip") is None:
        return "network namespaces need the program ip (iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"loggpt-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"network namespaces cannot be made here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


class Island:
    """The namespace and its cables, from `with` to the end of its block.

    name: of the namespace. listeners: for the brokers, in their order. bootstrap: for clients in it. http_host: where
    servers in it are reached, from outside and from inside.
    """

    def __init__(self, brokers: int) -> None:
        rng = random.SystemRandom()
        mark = f"{rng.randrange(16**6):06x}"
        self.name = f"loggpt-{mark}"
        # 10.128.0.0/9 at random: several may stand side by side. One more network than brokers, for the HTTP port.
        base = f"10.{rng.randrange(128, 256)}.{rng.randrange(256)}"
        self._networks = [f"{base}.{4 * place}" for place in range(brokers + 1)]
        self._devices = [f"lg{mark}{place}" for place in range(brokers + 1)]
        self._ports = free_ports(brokers)
        self.listeners = [
            Listener(address, address)
            for place, port in enumerate(self._ports)
            if (address := f"{self._address(place, 1)}:{port}")
        ]
        self.bootstrap = ",".join(each.advertised for each in self.listeners)
        self.http_host = self._address(brokers, 2)

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self.name)
            _ip("-n", self.name, "link", "set", "lo", "up")
            for place, device in enumerate(self._devices):
                _ip("link", "add", device, "type", "veth", "peer", "name", f"cable{place}", "netns", self.name)
                _ip("address", "add", f"{self._address(place, 1)}/30", "dev", device)
                _ip("-n", self.name, "address", "add", f"{self._address(place, 2)}/30", "dev", f"cable{place}")
                _ip("link", "set", device, "up")
                _ip("-n", self.name, "link", "set", f"cable{place}", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for device in self._devices:
            subprocess.run(["ip", "link", "delete", device], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)

    def cut(self, broker: int) -> None:
        """Pull the cable to a broker: whatever is sent is lost, in both directions."""
        _ip("link", "set", self._devices[broker], "down")

    def join(self, broker: int) -> None:
        """Put the cable back."""
        _ip("link", "set", self._devices[broker], "up")

    def _address(self, place: int, end: int) -> str:
        stem, _, last = self._networks[place].rpartition(".")
        return f"{stem}.{int(last) + end}"


def _ip(*arguments: str) -> None:
    told = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if told.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {told.stderr.strip()}")
