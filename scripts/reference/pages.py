"""All pages of the reference, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.reference.alerts import alerts_page
from scripts.reference.commands import commands_page
from scripts.reference.dead_letters import dead_letters_page
from scripts.reference.log_events import log_events_page
from scripts.reference.metrics import metrics_page
from scripts.reference.settings import settings_page

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "reference"

PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "log-events.md": log_events_page,
    "dead-letter-reasons.md": dead_letters_page,
    "alert-fields.md": alerts_page,
    "commands.md": commands_page,
}
