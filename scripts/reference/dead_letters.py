"""The page of dead letter reasons and of our record headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loggpt_stream.dead_letters.reasons import REASONS
from loggpt_stream.record_headers import DEAD_LETTER_HEADERS, REINJECTED_HEADERS, ROUTED_HEADERS
from scripts.reference.markdown import code, page, prose, sentence, table

if TYPE_CHECKING:
    from collections.abc import Mapping


def dead_letters_page() -> str:
    """Return the page of dead letter reasons."""
    return page(
        "Dead letter reasons",
        "Why a record holds no log event, and what to do about it.",
        "The reason is in the header `loggpt_reason`, in the label `reason` of `loggpt_dead_letters_total`, and in "
        "what `loggpt-stream dead-letters explain` prints.",
        table(
            ("Reason", "Meaning", "What to do"),
            [(code(str(name)), sentence(each.meaning), sentence(each.remedy)) for name, each in REASONS.items()],
        ),
        "## Headers of a dead letter\n\nA dead letter is the record as it came, with its own headers first and these "
        "behind them. The key and the value are the record's.\n\n" + _headers(DEAD_LETTER_HEADERS),
        "## Headers of what was put back\n\n`loggpt-stream dead-letters reinject` writes them.\n\n"
        + _headers(REINJECTED_HEADERS),
        "## Headers of routed records\n\n`loggpt-stream route` adds them behind the record's own.\n\n"
        + _headers(ROUTED_HEADERS),
    )


def _headers(headers: Mapping[str, str]) -> str:
    return table(("Header", "What it says"), [(code(name), prose(said)) for name, said in headers.items()])
