"""The doctor: every check in turn, each finding printed as it is made, and what they come to.

What takes long to load is imported between the checks, so that the first finding is there at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from loggpt_stream.checks.host import check_bundle, check_device, check_port
from loggpt_stream.kafka.finding import Finding, Level
from loggpt_stream.terminal import coloured, printable, width, wrapped

if TYPE_CHECKING:
    from loggpt_stream.checks.settings import DoctorSettings
    from loggpt_stream.model.bundle import Bundle

_COLOUR: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red"}
_CHECK_COLUMNS: Final = 18
_FOUND_AT: Final = 6 + _CHECK_COLUMNS


def examine(settings: DoctorSettings) -> int:
    """Print every finding and what they come to; return 1 where one is a failure."""
    bundle_finding, bundle = check_bundle(settings)
    levels = [_show(bundle_finding), _show(check_device(settings)), _show(check_port(settings))]
    levels += asyncio.run(_examine_kafka(settings, bundle))
    failures, warnings = levels.count(Level.FAILURE), levels.count(Level.WARNING)
    _sum_up(failures, warnings)
    return 1 if failures else 0


async def _examine_kafka(settings: DoctorSettings, bundle: Bundle | None) -> list[Level]:
    from loggpt_stream.checks.kafka import check_kafka  # noqa: PLC0415 - see above
    from loggpt_stream.logs import configure  # noqa: PLC0415

    configure(level="error")
    return [_show(each) async for each in check_kafka(settings, bundle)]


def _sum_up(failures: int, warnings: int) -> None:
    if not failures and not warnings:
        print(coloured("\nAll is well. Start the daemon with the same settings: loggpt-stream run", "bold"))
    else:
        said = [
            f"{count} {what}{'s' * (count > 1)}"
            for count, what in ((failures, "failure"), (warnings, "warning"))
            if count
        ]
        end = "put the failures right before the daemon starts" if failures else "the daemon can start"
        print(coloured(f"\n{' and '.join(said)}: {end}", "bold"))


def _show(finding: Finding) -> Level:
    mark = coloured(f"{finding.level:<4}", _COLOUR[finding.level])
    print(f"{mark}  {finding.check:<{_CHECK_COLUMNS}}{wrapped(printable(finding.found), _FOUND_AT, width())}")
    if finding.remedy:
        # Not wrapped: many are commands to copy.
        print(f"{'':<{_FOUND_AT}}→ {printable(finding.remedy)}")
    return finding.level
