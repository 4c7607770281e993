"""Whose line an event is: the session rules' key order, for the sessionizer and for whoever sorts records before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loggpt_stream.lines.names import SessionKind

if TYPE_CHECKING:
    from collections.abc import Collection

    from loggpt_stream.lines.record import Event
    from loggpt_stream.lines.tables import Key

SEVERAL: Final = ""

# The kind of session that a source names, and the event's attribute that holds the name; "" for what was linked.
_SOURCES: Final = {
    "explicit": (SessionKind.EXPLICIT, "session_id"),
    "instance": (SessionKind.INSTANCE, "instance_id"),
    "instance_in_text": (SessionKind.INSTANCE, "instance_in_text"),
    "request_instance": (SessionKind.INSTANCE, ""),
    "global_request": (SessionKind.REQUEST, "global_request_id"),
    "request": (SessionKind.REQUEST, "request_id"),
}


def request_of(event: Event) -> str | None:
    """Return the request that an event belongs to."""
    return event.request_id or event.global_request_id


def link_of(event: Event, order: Collection[str]) -> tuple[str, str] | None:
    """Return the request and the instance that an event says belong together; None where it says no such thing.

    Somebody's request belongs to a project. What a service does by itself (periodic tasks go through all instances of a
    host under one request id) is about no instance but those that its lines name.
    """
    request = request_of(event)
    if not request or not event.project_id:
        return None
    if "instance" in order and event.instance_id:
        return request, event.instance_id
    if "instance_in_text" in order and event.instance_in_text:
        return request, event.instance_in_text
    return None


def linked_with(known: str | None, instance: str) -> str:
    """Return which instance a request is about, having been about `known`: SEVERAL, once it names a second one."""
    return instance if known in (None, instance) else SEVERAL


def key_of(event: Event, order: Collection[str], linked: str | None) -> Key | None:
    """Return the kind and name of an event's session, by the first of `order` that it has; None for no session.

    linked: the instance that its request is about, where that counts.
    """
    for source in order:
        kind, attribute = _SOURCES[source]
        name = getattr(event, attribute) if attribute else linked
        if name:
            return kind, name
    return None


def window_of(event: Event) -> Key:
    """Return the kind and name of the window for events without any other key: one a host and service."""
    return SessionKind.WINDOW, f"{event.host or '-'}/{event.service or event.logger.partition('.')[0] or '-'}"
