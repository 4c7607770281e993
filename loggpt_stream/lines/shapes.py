"""Shapes: how a log line can lie in a record. The decoder recognises them, and the simulator writes them.

Another shape is a member here, what `lines.decode` recognises it by, and a shipper of the simulator.
"""

from __future__ import annotations

from enum import unique

from loggpt_stream.lines.names import WireName


@unique
class Shape(WireName):
    """How a log line lies in a record."""

    PLAIN = "plain"  # oslo.log text
    LOGHUB = "loghub"  # the same, behind the name of its file
    SYSLOG = "syslog"  # text behind a header by RFC 5424 or RFC 3164
    OSLO_JSON = "oslo_json"  # oslo.log's JSONFormatter
    OSLO_FLUENT = "oslo_fluent"  # oslo.log's FluentFormatter
    KOLLA = "kolla"  # kolla-ansible's fluentd
    OTLP = "otlp"  # OTLP/JSON
    FILEBEAT = "filebeat"
    VECTOR = "vector"
    FLUENTBIT = "fluentbit"
    SESSION_JSON = "session_json"  # JSON that states the session of its text: {"session_id": …, "message": …}
    JSON = "json"  # any other JSON with a text field

    @property
    def is_text(self) -> bool:
        """Tell whether a record of this shape is text, and no JSON."""
        return self in _TEXT


_TEXT = frozenset({Shape.PLAIN, Shape.LOGHUB, Shape.SYSLOG})
# Names of version 0.1.0, which settings may still have.
_OLD_NAMES = {"shared": Shape.SESSION_JSON}


def known_shape(name: str | None) -> Shape | None:
    """Return the shape of a name, new or old; None for None. Raises `ValueError` that says which there are."""
    if name is None:
        return None
    try:
        return _OLD_NAMES.get(name) or Shape(name)
    except ValueError:
        raise ValueError(f"no such shape; there are {', '.join(Shape)}") from None
