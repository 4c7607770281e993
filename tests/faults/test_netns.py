"""A cable that is pulled loses everything, the others nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from faults.netns import Island, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

TALK = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.5) as talk:
            print(talk.recv(10).decode())
    except OSError as error:
        print(type(error).__name__)
"""


def greet(server: socket.socket, word: bytes) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            client.sendall(word)


@pytest.fixture
def island() -> Iterator[Island]:
    """An island of two brokers, each of which says its number to whoever comes."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with Island(brokers=2) as made:
        servers = []
        for number, listener in enumerate(made.listeners):
            host, port = listener.bind.split(":")
            servers.append(socket.create_server((host, int(port))))
            threading.Thread(target=greet, args=(servers[-1], b"broker %d" % number), daemon=True).start()
        yield made
        for server in servers:
            server.close()


def heard(island: Island) -> list[str]:
    command = ["ip", "netns", "exec", island.name, sys.executable, "-c", TALK, *island.bootstrap.split(",")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_pulled_cable_parts_one_broker_until_it_is_put_back(island: Island) -> None:
    assert heard(island) == ["broker 0", "broker 1"]
    island.cut(1)
    assert heard(island) == ["broker 0", "TimeoutError"]
    island.join(1)
    island.cut(0)
    assert heard(island) == ["TimeoutError", "broker 1"]
    island.join(0)
    assert heard(island) == ["broker 0", "broker 1"]


def test_nothing_is_left_of_an_island_and_two_can_stand_side_by_side(island: Island) -> None:
    with Island(brokers=1) as other:
        assert other.name != island.name
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert (other.name in names, island.name in names) == (False, True)


def test_a_machine_without_ip_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert missing() == "network namespaces need the program ip (iproute2)"
