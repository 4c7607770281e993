"""Make load as the settings say: to a file, standard output or a topic."""

from __future__ import annotations

import asyncio
import gc
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loggpt_stream.errors import UserError
from loggpt_stream.simulator.library import Library, load_library
from loggpt_stream.simulator.load import Load, Plan, natural_concurrency
from loggpt_stream.simulator.outputs import SendProgress, TruthFile, write_stream, write_topic
from loggpt_stream.simulator.settings import TO_KAFKA

if TYPE_CHECKING:
    from loggpt_stream.simulator.settings import SimulateSettings

_DEFAULT_CONCURRENCY: Final = 100
_DEFAULT_SESSIONS: Final = 100


def simulate(settings: SimulateSettings) -> None:
    """Make load. Raises `UserError` where it cannot be written."""
    library = load_library(settings.splits)
    # Nothing of the library ever goes: without it the collector has next to nothing to look at.
    gc.freeze()
    records = Load(library, settings.format, plan(settings, library))
    progress = SendProgress(settings.rate)
    with ExitStack() as stack:
        truth_path = settings.truth_path()
        try:
            truths = TruthFile(stack.enter_context(truth_path.open("w", newline="")) if truth_path else None)
            if settings.output.startswith(TO_KAFKA):
                asyncio.run(_to_topic(records, settings, truths, progress))
            elif settings.output == "-":
                write_stream(records, sys.stdout.buffer, truths, progress)
            else:
                write_stream(records, stack.enter_context(Path(settings.output).open("wb")), truths, progress)
        except BrokenPipeError:
            raise  # nobody reads standard output any more
        except OSError as error:
            raise UserError(f"output {settings.output}: {error}") from error
    progress.tell(done=True)


def plan(settings: SimulateSettings, library: Library) -> Plan:
    """Return what the settings ask for."""
    sessions = settings.sessions
    if sessions is None and settings.lines is None and settings.duration_s is None:
        sessions = _DEFAULT_SESSIONS
    concurrency = settings.concurrency
    if concurrency is None:
        rate, scale = settings.rate, settings.time_scale
        concurrency = natural_concurrency(library, rate, scale) if rate else _DEFAULT_CONCURRENCY
    return Plan(
        start_ms=settings.start_ms(),
        seed=settings.seed,
        concurrency=concurrency,
        failure_share=settings.failure_share,
        time_scale=settings.time_scale,
        background=settings.background,
        sessions=sessions,
        lines=settings.lines,
        duration_ms=round(settings.duration_s * 1000) if settings.duration_s else None,
    )


async def _to_topic(records: Load, settings: SimulateSettings, truths: TruthFile, progress: SendProgress) -> None:
    await write_topic(
        records,
        settings.output.removeprefix(TO_KAFKA),
        settings.kafka,
        truths,
        progress,
        keyed=not settings.unkeyed,
        acks=settings.acks,
        compression=None if settings.compression == "none" else settings.compression,
    )
