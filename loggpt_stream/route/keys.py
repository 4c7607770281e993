"""Which key keeps a session's lines on one partition: chosen record by record, by what came before on its partition.

No I/O and no clock. The rules are the sessionizer's: its key order, requests that are about an instance, continuations
that follow their event. What it knows and this does not is which sessions are open: a request that is about an instance
goes with the instance for as long as it is remembered, and the sessionizer there decides whose line it is.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loggpt_stream.lines.columns import Table, rows, table
from loggpt_stream.lines.continuation import Parent, Parents, TracebackReader, stands_alone
from loggpt_stream.lines.keys import SEVERAL, key_of, link_of, linked_with, request_of, window_of
from loggpt_stream.lines.tables import MAX_LINKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loggpt_stream.lines.record import Event


# What is stored, as tables (`lines.columns`): their fields, with what holds where a field is absent. This is format 2;
# what was written in format 1 is converted before it comes here (`route.state_formats`).
LINKS: Final = {"request": "", "instance": ""}
PARENTS: Final = {
    "source": "",
    "process": "",
    "logger": "",
    "time_s": 0.0,
    "key": "",
    "in_frames": 0,
    "session_id": None,
    "headerless": 0,
    "newest": 0,
}


class Choice(NamedTuple):
    """The key of a record.

    kind: of key. about_several: its request names several instances, so that it belongs to none of them. mixed: the
    record holds lines of other sessions too.
    """

    kind: str
    key: str
    about_several: bool = False
    mixed: bool = False


class Keys:
    """Chooses the keys of one partition's records, in their order."""

    def __init__(self, order: Sequence[str]) -> None:
        """`order`: where a key is looked for, as in the session rules."""
        self._order = tuple(order)
        self._instance_of_request: OrderedDict[str, str] = OrderedDict()
        self._parents = Parents()
        self._linked: dict[str, None] = {}

    def choose(self, events: Sequence[Event]) -> Choice:
        """Return the key of a record by its events (at least one): the first that belongs to a session decides."""
        if len(events) == 1:
            return self._key(events[0])
        found = [self._key(event) for event in events]
        of_sessions = [each for each in found if each.kind != "window"]
        chosen = (of_sessions or found)[0]
        return chosen._replace(mixed=any(each.key != chosen.key for each in of_sessions))

    def _key(self, event: Event) -> Choice:
        if event.fragment:
            parent = self._parents.find(event)
            if parent is not None:
                parent.reader.read(event.message)
                self._parents.touch(parent)
                return Choice("continuation", parent.key)
            if not stands_alone(event):
                return Choice(*window_of(event))
        order = self._order
        linking = link_of(event, order)
        if linking is not None:
            self._link(*linking)
        request = request_of(event)
        linked = self._instance_of_request.get(request) if request else None
        kind, key = key_of(event, order, linked) or window_of(event)
        self._parents.remember(event, None, key)
        return Choice(kind, key, about_several=linked == SEVERAL and kind == "request")

    def _link(self, request: str, instance: str) -> None:
        known = self._instance_of_request.get(request)
        if known not in (instance, SEVERAL):
            self._put_link(request, linked_with(known, instance))
            self._linked[request] = None

    def _put_link(self, request: str, instance: str) -> None:
        self._instance_of_request[request] = instance
        if len(self._instance_of_request) > MAX_LINKS:
            self._instance_of_request.popitem(last=False)

    def changes(self) -> dict[str, Any]:
        """Return what changed since somebody last asked, as JSON-ready values."""
        links = [(each, self._instance_of_request.get(each, SEVERAL)) for each in self._linked]
        return self._stored(links, self._parents.unsaved())

    def everything(self) -> dict[str, Any]:
        """Return all that later keys depend on, likewise."""
        return self._stored(self._instance_of_request.items(), self._parents)

    def apply(self, change: dict[str, Any]) -> None:
        """Take in what `changes` or `everything` returned. Raises `IndexError`, `TypeError` or `ValueError` else."""
        for request, instance in rows(LINKS, change.get("links", {})):
            self._put_link(request, instance)
        for *event, key, in_frames, session_id, headerless, newest in rows(PARENTS, change.get("parents", {})):
            source, process, logger, time_s = event
            reader = TracebackReader()
            reader.in_frames = bool(in_frames)
            parent = Parent((source, process, logger), time_s, None, 0, reader, session_id, bool(headerless), key)
            self._parents.put(parent, newest=bool(newest))
        self._forget()

    def _stored(self, links: Iterable[tuple[str, str]], parents: Iterable[Parent]) -> dict[str, Table]:
        tables = {"links": table(LINKS, links), "parents": table(PARENTS, map(self._written, parents))}
        self._forget()
        return {name: each for name, each in tables.items() if each}

    def _written(self, parent: Parent) -> tuple[Any, ...]:
        """Return a row of PARENTS."""
        flags = (int(parent.headerless), int(self._parents.is_newest(parent)))
        return (*parent.writer, parent.time_s, parent.key, int(parent.reader.in_frames), parent.session_id, *flags)

    def _forget(self) -> None:
        self._linked.clear()
        self._parents.unsaved()
