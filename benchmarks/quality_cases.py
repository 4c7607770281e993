"""What `make quality` measures: data sets, seeds, and one change at a time for the ablations."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loggpt_stream.history.corpus import Corpus, read_corpus
from loggpt_stream.history.labels import Labels, read_labels
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.lines.rules import SessionRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from loggpt_stream.lines.masks import MaskRule
    from loggpt_stream.lines.session import Line, Session

ROOT: Final = Path(__file__).resolve().parent.parent
FAULTS: Final = ROOT.parent / "shared" / "data" / "openstack-faults"
NOVA34: Final = Path(str(files("loggpt_stream") / "data" / "nova34"))
SEEDS: Final = (1, 2, 3)

_BY_INSTANCE: Final = ("instance", "instance_in_text")


@dataclass(frozen=True)
class Case:
    """One data set, read as one kind of session. later: a recording nothing is fitted on. flags: of the trainer."""

    name: str
    kind: str
    log: Path
    labels: Path
    group_column: str | None
    key_order: tuple[str, ...] | None
    flags: tuple[str, ...] = ()
    later: tuple[Path, Path] | None = None

    @property
    def available(self) -> bool:
        """Tell whether the data is there."""
        return self.log.exists() and self.labels.exists()

    def rules(self) -> SessionRules:
        """Return the session rules."""
        return SessionRules() if self.key_order is None else SessionRules(key_order=self.key_order)


# The campaign's runs are numbered by fault and no timeline, so what is held out is drawn; nova34 is one.
_DRAWN: Final = ("--validation", "random")
CASES: Final = {
    # A run has twenty times an instance's lines, hence twenty times the steps an epoch.
    "run": Case(
        "run",
        "explicit",
        FAULTS / "nova.jsonl.xz",
        FAULTS / "nova.labels.csv",
        "test",
        ("explicit",),
        (*_DRAWN, "--training.epochs", "6"),
    ),
    "instance": Case(
        "instance", "instance", FAULTS / "nova.jsonl.xz", FAULTS / "nova.labels.csv", "test", _BY_INSTANCE, _DRAWN
    ),
    "nova34": Case(
        "nova34",
        "instance",
        NOVA34 / "nova34.log.xz",
        NOVA34 / "nova34.labels.csv",
        None,
        None,
        later=(NOVA34 / "nova34-day2.log.xz", NOVA34 / "nova34-day2.labels.csv"),
    ),
}


@dataclass(frozen=True)
class Variant:
    """One change against the default. flags: of the trainer. lines: what becomes of a session's lines.

    reinforce: learning rate of LogGPT's fine-tuning after training, 0 for none. contamination: share of failures among
    the training sessions. judged_by: which combinations show what the change is worth: all statistics, the model alone.
    """

    name: str
    what: str
    flags: tuple[str, ...] = ()
    key_order: tuple[str, ...] | None = None
    mask_rules: tuple[MaskRule, ...] = DEFAULT_RULES
    lines: Callable[[list[Line]], list[Line]] | None = field(default=None, repr=False)
    reinforce: float = 0.0
    contamination: float = 0.0
    cases: tuple[str, ...] = ("instance", "nova34")
    judged_by: tuple[str, str] = ("everything", "language_model")


def _with_gaps(lines: list[Line]) -> list[Line]:
    """Put a line of its own wherever nothing was said for a second or more: its length in powers of two."""
    found = lines[:1]
    for before, line in itertools.pairwise(lines):
        gap_s = line.time_s - before.time_s
        if gap_s >= 1:
            found.append(replace(line, head=f"<gap {int(gap_s).bit_length()}>", tail=""))
        found.append(line)
    return found


def _by_request(lines: list[Line]) -> list[Line]:
    """Put the lines of one request together, in order of each request's first line."""
    first: dict[str, int] = {}
    for line in lines:
        first.setdefault(_request(line), len(first))
    return sorted(lines, key=lambda line: first[_request(line)])


def _request(line: Line) -> str:
    found = re.search(r"req-[0-9a-f-]{36}", line.raw)
    return found[0] if found else ""


_PLAIN_NUMBERS: Final = tuple(
    replace(rule, replacement="<n>") if rule.name == "integer" else rule for rule in DEFAULT_RULES
)

WITH_TAIL: Final = ("everything with the tail's end", "language model with the tail's end")
_ALL: Final = ("run", "instance", "nova34")

VARIANTS: Final = {
    each.name: each
    for each in (
        Variant("default", "as shipped", cases=_ALL),
        Variant("no-hygiene", "lines never seen stay in the context of others", ("--no-reading.hygiene",), cases=_ALL),
        Variant("blocks-64", "context of a line: 64 lines", ("--reading.block-lines", "64")),
        Variant(
            "blocks-128", "context of a line: 128 lines, the original's", ("--reading.block-lines", "128"), cases=_ALL
        ),
        Variant("blocks-256", "context of a line: 256 lines", ("--reading.block-lines", "256")),
        Variant(
            "tail",
            "with a tail of 256 lines before the end, and its end's loss",
            ("--reading.tail-lines", "256"),
            judged_by=WITH_TAIL,
        ),
        Variant("no-digest", "without the digest pass", ("--no-reading.digest",), cases=_ALL),
        Variant("separator", "`<|LOG|>` before each line", ("--reading.separator",)),
        Variant(
            "pieces",
            "lines split at words into byte-pair pieces, none whole (vocabulary 1,024)",
            ("--tokenizer.vocabulary-size", "1024", "--model.context-tokens", "1024"),
        ),
        Variant("plain-numbers", "numbers all alike, not by their digits", mask_rules=_PLAIN_NUMBERS),
        Variant("gaps", "silences as lines of their own", lines=_with_gaps),
        Variant("by-request", "lines of one request together", lines=_by_request),
        Variant(
            "joined",
            "with the lines of their requests that name no instance",
            key_order=(*_BY_INSTANCE, "request_instance"),
            cases=("instance",),
        ),
        Variant("not-joined", "without the lines of their requests", key_order=_BY_INSTANCE, cases=("nova34",)),
        Variant("width-64", "2 layers x 64", ("--model.width", "64")),
        Variant(
            "4-layers",
            "4 layers x 256, learning rate 0.001",
            ("--model.layers", "4", "--model.width", "256", "--training.learning-rate", "1e-3"),
        ),
        Variant("learning-rate", "learning rate 0.0005, the original's", ("--training.learning-rate", "5e-4")),
        *(
            Variant(
                f"reinforced-{rate:.0e}", f"LogGPT's fine-tuning after training, learning rate {rate:g}", reinforce=rate
            )
            for rate in (1e-6, 1e-4)
        ),
        *(
            Variant(f"contaminated-{percent}", f"{percent} % of the history are failures", contamination=percent / 100)
            for percent in (1, 5, 10)
        ),
    )
}


def read_case(case: Case, variant: Variant, log: Path, labels: Path) -> tuple[Corpus, Labels]:
    """Read a log to sessions, as the variant wants them."""
    rules = case.rules() if variant.key_order is None else replace(case.rules(), key_order=variant.key_order)
    corpus = read_corpus([str(log)], rules, variant.mask_rules)
    if variant.lines:
        for session in corpus.sessions:
            session.lines = variant.lines(session.lines)
    table = read_labels(str(labels))
    corpus.sessions = [each for each in corpus.sessions if each.kind == case.kind and table.row(each)]
    return corpus, table


def split_of(session: Session, labels: Labels) -> str:
    """Return the split that a session belongs to."""
    row = labels.row(session)
    return row["split"] if row else ""
