"""Log output of our own commands: structlog events with constant names, readable on a terminal, JSON otherwise."""

from __future__ import annotations

import io
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

import structlog

from loggpt_stream.terminal import shown

if TYPE_CHECKING:
    from typing import TextIO

    from structlog.typing import EventDict, ExcInfo, Processor

    from loggpt_stream.terminal import LogFormat

_MOST_REMEMBERED: Final = 1_000


def configure(log_format: LogFormat = "auto", level: str = "info") -> None:
    """Send log events to standard error. `auto` means console on a terminal and JSON elsewhere.

    Libraries (aiokafka, transformers) speak through `logging`: their warnings come out in the same form, and damped.
    """
    readable = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # A traceback never shows local variables: a password may be among them.
    without_locals = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[Processor] = (
        [_shown_event, structlog.dev.ConsoleRenderer(exception_formatter=_shown_traceback)]
        if readable
        else [structlog.processors.ExceptionRenderer(without_locals), structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    of_libraries = logging.StreamHandler(sys.stderr)
    of_libraries.addFilter(Damped())
    of_libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [of_libraries]
    root.setLevel(logging.WARNING)


class Damped(logging.Filter):
    """Lets a library say the same once in so many seconds: aiokafka complains of a broker many times a second."""

    def __init__(self, every_s: float = 30.0) -> None:
        """every_s: by the records' own times."""
        super().__init__()
        self._every_s = every_s
        self._said_s: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is news."""
        same = record.name, record.getMessage()
        if record.created - self._said_s.get(same, float("-inf")) < self._every_s:
            return False
        if len(self._said_s) >= _MOST_REMEMBERED:
            self._said_s.clear()
        self._said_s[same] = record.created
        return True


def _shown_event(_: object, __: str, event: EventDict) -> EventDict:
    """Return an event whose texts are fit for a terminal; what is no text is shown by its repr, and that is too."""
    return {
        shown(name): value if name in _OURS or isinstance(value, int | float | None) else shown(_text(value))
        for name, value in event.items()
    }


_OURS: Final = frozenset({"exc_info", "_record", "_from_structlog", "timestamp", "level"})


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _shown_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    whole = io.StringIO()
    structlog.dev.plain_traceback(whole, exc_info)
    # Indented, so that no line of a message can pass for an event of its own.
    stream.write("".join(f"  {shown(line)}\n" for line in whole.getvalue().split("\n")))


def get_logger(name: str) -> Any:  # noqa: ANN401 - structlog's bound logger is typed by its configuration
    """Return a logger whose events carry `component=name`."""
    return structlog.get_logger(component=name)
