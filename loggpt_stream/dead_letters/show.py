"""Dead letters on a terminal: listed, explained, and what became of those that were put back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from loggpt_stream.dead_letters.letters import Done, read_letters
from loggpt_stream.dead_letters.reasons import REASONS, UNKNOWN
from loggpt_stream.dead_letters.reinject import reinject
from loggpt_stream.dead_letters.selection import Selection
from loggpt_stream.terminal import aligned, coloured, printable, width, wrapped

if TYPE_CHECKING:
    from loggpt_stream.dead_letters.letters import Letter
    from loggpt_stream.dead_letters.settings import ListSettings, PickSettings, ReinjectSettings

_EXCERPT_BYTES: Final = 600
_SHOWN_REFUSALS: Final = 20


async def list_letters(settings: ListSettings) -> int:
    """Print the newest dead letters; return the exit code."""
    done, newest, selected = Done(), [], 0
    async for letter in read_letters(settings.kafka, settings.dead_letter_topic, done):
        if settings.selection.takes(letter):
            selected += 1
            newest.append(_shortened(letter))
        if len(newest) >= 2 * settings.limit:
            newest = _newest(newest, settings.limit)
    shown = _newest(newest, settings.limit)
    if not shown:
        print(f"no dead letters in {settings.dead_letter_topic}{_picked(settings)}")
        return 0
    titles = ("PARTITION", "OFFSET", "WRITTEN", "CAME FROM", "REASON", "BYTES", "SINCE")
    rows = aligned([titles, *(_row(letter, done) for letter in shown)], right=frozenset({0, 1, 5}))
    print(coloured(rows[0], "bold"))
    for row, letter in zip(rows[1:], shown, strict=True):
        print(row)
        print(coloured(_begin(letter, indent=4), "dim"))
    if selected > len(shown):
        print(f"\nthe newest {len(shown)} of {selected:,}; --limit shows more")
    return 0


def _newest(letters: list[Letter], limit: int) -> list[Letter]:
    return sorted(letters, key=lambda each: (each.time_s, each.partition, each.offset))[-limit:]


def _shortened(letter: Letter) -> Letter:
    """Return a letter with its size in place of what it does not take to show it: there may be very many."""
    size = letter.truncated_from or len(letter.value)
    return replace(letter, value=letter.value[:_EXCERPT_BYTES], truncated_from=size, headers=())


def _row(letter: Letter, done: Done) -> tuple[str, ...]:
    since = "put back" if done.has(letter) else ""
    if letter.reinjected_from is not None:
        since = f"{since + ', was ' if since else ''}failed again ({printable(letter.reinjected_from, 80)})"
    return (
        str(letter.partition),
        str(letter.offset),
        _time(letter.time_s),
        _origin(letter),
        printable(letter.reason, 24) or "-",
        f"{letter.truncated_from:,}",
        since,
    )


def _origin(letter: Letter) -> str:
    if letter.origin is None:
        return "-"
    return f"{printable(letter.origin.topic, 80)}/{letter.origin.partition}/{letter.origin.offset}"


def _begin(letter: Letter, indent: int) -> str:
    """Return one line with the detail and how the record begins, as wide as the terminal."""
    columns = width() - indent
    detail = printable(letter.detail, columns // 2)
    excerpt = printable(letter.value, max(20, columns - len(detail) - 3))
    return " " * indent + (f"{detail} | {excerpt}" if letter.value else detail)


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'s' * (count != 1)}"


def _time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _picked(settings: PickSettings) -> str:
    return " that were asked for" if settings.selection != Selection() else ""


@dataclass(slots=True)
class _Summary:
    """The dead letters of one reason. first_s, last_s: when the first and the last was written (epoch seconds)."""

    first_s: float
    last_s: float
    example: Letter
    places: list[tuple[int, int]] = field(default_factory=list)
    failed_again: int = 0


async def explain_letters(settings: PickSettings) -> int:
    """Print what the dead letters come to, by reason; return the exit code."""
    done = Done()
    summaries: dict[str, _Summary] = {}
    async for letter in read_letters(settings.kafka, settings.dead_letter_topic, done):
        if not settings.selection.takes(letter):
            continue
        summary = summaries.setdefault(letter.reason, _Summary(letter.time_s, letter.time_s, _shortened(letter)))
        summary.first_s = min(summary.first_s, letter.time_s)
        if letter.time_s >= summary.last_s:
            # The newest is the likeliest to be in the input topic still.
            summary.last_s, summary.example = letter.time_s, _shortened(letter)
        summary.places.append((letter.partition, letter.offset))
        summary.failed_again += letter.reinjected_from is not None
    if not summaries:
        print(f"no dead letters in {settings.dead_letter_topic}{_picked(settings)}")
        return 0
    total = sum(len(summary.places) for summary in summaries.values())
    print(coloured(f"{_letters(total)} in {settings.dead_letter_topic}", "bold"))
    for reason, summary in sorted(summaries.items(), key=lambda each: -len(each[1].places)):
        _show(reason, summary, total, sum(offset in done.offsets[partition] for partition, offset in summary.places))
    return 0


def _show(reason: str, summary: _Summary, total: int, put_back: int) -> None:
    count = len(summary.places)
    since = [f"{put_back:,} put back"] if put_back else []
    since += [f"{summary.failed_again:,} had been put back before and failed again"] if summary.failed_again else []
    known = REASONS.get(reason, UNKNOWN)
    print(f"\n{coloured(printable(reason, 40) or '(no reason)', 'bold')}  {count:,} ({count / total:.0%})")
    facts = [
        ("seen", f"{_time(summary.first_s)} to {_time(summary.last_s)}"),
        ("since", ", ".join(since)),
        ("means", known.meaning),
        ("to do", known.remedy),
        ("detail", printable(summary.example.detail, width() - 12)),
        ("example", f"{_origin(summary.example)}, {summary.example.truncated_from:,} bytes"),
        ("", printable(summary.example.value, width() - 12)),
    ]
    for name, fact in facts:
        if fact:
            print(f"  {name:<8}  {fact if name in ('', 'detail') else wrapped(fact, 12, width())}")


async def put_letters_back(settings: ReinjectSettings) -> int:
    """Put dead letters back, and print what became of them; return 1 where one was refused."""
    outcome = await reinject(settings, settings.selection, again=settings.again, dry_run=settings.dry_run)
    done = "would be put back" if settings.dry_run else "put back"
    print(coloured(f"{_letters(outcome.put_back)} {done} into {settings.input_topic}", "bold"))
    for why, count in outcome.passed.items():
        print(f"{count:,} {why}")
    for letter, why in outcome.refused[:_SHOWN_REFUSALS]:
        print(f"refused {letter.partition}/{letter.offset} ({printable(letter.reason, 24) or '-'}): {printable(why)}")
    if len(outcome.refused) > _SHOWN_REFUSALS:
        print(f"refused {len(outcome.refused) - _SHOWN_REFUSALS:,} more")
    return 1 if outcome.refused else 0
