"""Log output of our own commands: structlog events with constant names, readable on a terminal, JSON otherwise."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Literal

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

LogFormat = Literal["auto", "console", "json"]


def configure(log_format: LogFormat = "auto", level: str = "info") -> None:
    """Send log events to standard error. `auto` means console on a terminal and JSON elsewhere.

    Libraries (aiokafka, transformers) speak through `logging`: their warnings come out in the same form.
    """
    readable = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # A traceback never shows local variables: a password may be among them.
    without_locals = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
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
    of_libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [of_libraries]
    root.setLevel(logging.WARNING)


def get_logger(name: str) -> Any:  # noqa: ANN401 - structlog's bound logger is typed by its configuration
    """Return a logger whose events carry `component=name`."""
    return structlog.get_logger(component=name)
