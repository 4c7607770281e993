"""`loggpt-stream dead-letters`: look at what the daemon could not read, understand it, and put it back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.dead_letters.letters import Done, Selection, read_letters
from loggpt_stream.dead_letters.reasons import REASONS, UNKNOWN
from loggpt_stream.dead_letters.reinject import reinject
from loggpt_stream.errors import UserError
from loggpt_stream.logs import configure
from loggpt_stream.settings import load
from loggpt_stream.terminal import aligned, coloured, printable, width, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loggpt_stream.dead_letters.letters import Letter

_HELP: Final = """\
usage: loggpt-stream dead-letters {list,explain,reinject} [settings]

Records that hold no log event go to the dead letter topic: as they came, with the reason and where they came from.

  loggpt-stream dead-letters explain --config configs/daemon.yaml     how many of each reason, what it means, what to do
  loggpt-stream dead-letters list --config configs/daemon.yaml        one by one, newest last
  loggpt-stream dead-letters reinject --config configs/daemon.yaml    back to the input topic, once the cause is mended

Each takes the daemon's own settings, and picks with --reason, --partition, --from-offset and --to-offset.
Each has a --help with examples."""

_LIST_HELP: Final = """\
Show the newest dead letters, newest last: where each lies, when it was written, where its record came from, why it was
refused, and how it begins, with everything escaped that a terminal could act on.

  loggpt-stream dead-letters list --config configs/daemon.yaml
  loggpt-stream dead-letters list --config configs/daemon.yaml --reason bad_json --limit 200
  loggpt-stream dead-letters list --config configs/daemon.yaml --partition 0 --from-offset 1200 --to-offset 1300

The last column says what became of it: `put back`, or `failed again`, with the dead letter that it was before."""

_EXPLAIN_HELP: Final = """\
Sum the dead letters up by reason: how many, first and last seen, what the reason means, what to do, and an example.

  loggpt-stream dead-letters explain --config configs/daemon.yaml
  loggpt-stream dead-letters explain --config configs/daemon.yaml --reason no_text --partition 2"""

_REINJECT_HELP: Final = """\
Write dead letters back to the topic that they came from, for the daemon to read again. Mend the cause first.

  loggpt-stream dead-letters reinject --config configs/daemon.yaml --reason other_shape --dry-run
  loggpt-stream dead-letters reinject --config configs/daemon.yaml --reason other_shape
  loggpt-stream dead-letters reinject --config configs/daemon.yaml --partition 0 --from-offset 1200 --to-offset 1300

Each is put back exactly once, however often this is run and whatever interrupts it: record and the mark that it was put
back (a record in the dead letter topic, header loggpt_reinjected) are one transaction, with the transactional id
GROUP-INPUT_TOPIC-reinject. It gets its old partition, key, timestamp and headers, and loggpt_reinjected_from with the
place of the dead letter. A record that fails again is a new dead letter with that header, shown by `list`; it is passed
over unless --again is given, so that nothing goes in circles. The daemon reads it where it stands now: if its session
has closed meanwhile, the line makes a session of its own.

What came through loggpt-stream route has the topic that the router reads for its own, and gets its key there:

  loggpt-stream dead-letters reinject --config configs/daemon.yaml --input-topic openstack-logs-raw

Refused, and said so: a record that was cut (it was larger than a dead letter may be), one without a value, one that
came from another topic than --input-topic. Exits with 1 where one was refused."""

_EXCERPT_BYTES: Final = 600
_SHOWN_REFUSALS: Final = 20


def _known_reason(name: str) -> str:
    if name not in REASONS:
        raise ValueError(f"no such reason; there are {', '.join(REASONS)}")
    return name


class PickSettings(DaemonSettings):
    """Settings of every action: the daemon's, and which dead letters."""

    reason: list[Annotated[str, AfterValidator(_known_reason)]] = Field([], description="only of these reasons")
    partition: int | None = Field(None, ge=0, description="only of this partition of the dead letter topic")
    from_offset: int | None = Field(None, ge=0, description="with --partition: from this offset on")
    to_offset: int | None = Field(None, ge=0, description="with --partition: up to this offset, and with it")

    @model_validator(mode="after")
    def _offsets_of_one_partition(self) -> Self:
        if self.partition is None and (self.from_offset, self.to_offset) != (None, None):
            raise ValueError("from_offset and to_offset need a partition: give --partition too")
        return self

    @property
    def selection(self) -> Selection:
        """Return which dead letters are meant."""
        return Selection(frozenset(self.reason), self.partition, self.from_offset, self.to_offset)


class ListSettings(PickSettings):
    """Settings of `loggpt-stream dead-letters list`."""

    limit: int = Field(50, gt=0, description="show the newest so many")


class ReinjectSettings(PickSettings):
    """Settings of `loggpt-stream dead-letters reinject`."""

    dry_run: bool = Field(default=False, description="write nothing, say what would be put back")
    again: bool = Field(default=False, description="those too that were put back before and failed again")


def main(argv: Sequence[str]) -> int:
    """Run the action that `argv` names; return the exit code."""
    action, *rest = argv or ["--help"]
    if action in ("--help", "-h", "help"):
        print(_HELP)
        return 0
    prog = f"loggpt-stream dead-letters {action}"
    configure(level="error")
    if action == "list":
        return asyncio.run(_list(load(ListSettings, rest, prog=prog, description=_LIST_HELP)))
    if action == "explain":
        return asyncio.run(_explain(load(PickSettings, rest, prog=prog, description=_EXPLAIN_HELP)))
    if action == "reinject":
        return asyncio.run(_reinject(load(ReinjectSettings, rest, prog=prog, description=_REINJECT_HELP)))
    raise UserError(f"dead-letters has no action {action!r}; there are list, explain and reinject")


async def _list(settings: ListSettings) -> int:
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


async def _explain(settings: PickSettings) -> int:
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


async def _reinject(settings: ReinjectSettings) -> int:
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
