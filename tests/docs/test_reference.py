"""docs/reference is what the code says today, and leaves nothing out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from loggpt_stream.alerts.alert import schema
from loggpt_stream.daemon.metrics import CLOSE_REASONS, FATES, KINDS
from loggpt_stream.daemon.partition import Rejected
from loggpt_stream.daemon.publisher import DEAD_LETTER_BYTES, dead_letter
from loggpt_stream.daemon.state_formats import STATE_FORMATS
from loggpt_stream.dead_letters.reasons import REASONS
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.lines import rules
from loggpt_stream.lines.names import CloseReason, DeadLetterReason, Fate, SessionKind
from loggpt_stream.lines.record import Record, UndecodableError
from loggpt_stream.log_events import LOG_EVENTS
from loggpt_stream.record_headers import DEAD_LETTER_HEADERS, ROUTED_HEADERS
from loggpt_stream.route.partition import RoutedPartition
from scripts.reference.alerts import fields_of
from scripts.reference.log_events import missing_or_unused
from scripts.reference.metrics import help_of, labels_of, metrics_of, registered_name
from scripts.reference.pages import FOLDER, PAGES
from scripts.reference.programs import EXPORTERS, PROGRAMS, Exporter, Program
from scripts.reference.scan import UnreadableCallError, scan
from scripts.reference.settings import settings_of

if TYPE_CHECKING:
    from pathlib import Path

WITH_SETTINGS = [program for program in PROGRAMS if program.settings]
# How a description may begin with a capital: names, and words that are always written so.
_NAMES = re.compile(r"(?:[A-Z][A-Z0-9]|Kafka\b|AdamW\b)")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says_today(name: str) -> None:
    written = FOLDER / name
    assert written.exists(), f"docs/reference/{name} is missing: run make reference"
    assert written.read_text(encoding="utf-8") == PAGES[name](), f"docs/reference/{name} is old: run make reference"


def test_the_folder_holds_the_generated_pages_and_nothing_else() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


@pytest.mark.parametrize("program", WITH_SETTINGS, ids=lambda program: program.name)
def test_every_setting_has_a_description_that_reads_as_part_of_a_sentence(program: Program) -> None:
    cls = program.settings_class()
    assert cls is not None
    odd = [
        f"{setting.key}: {setting.description!r}"
        for setting in settings_of(cls)
        if len(setting.description.split()) < 2
        or setting.description.endswith(".")
        or (setting.description[0].isupper() and not _NAMES.match(setting.description))
    ]
    assert not odd, f"settings of {program.name}: a description begins small, has two words or more, and no full stop"


@pytest.mark.parametrize("program", WITH_SETTINGS, ids=lambda program: program.name)
def test_the_flags_of_the_settings_page_are_those_of_the_help(program: Program) -> None:
    cls = program.settings_class()
    assert cls is not None
    told = program.help()
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", told[told.index("options:") :]))
    for setting in settings_of(cls):
        assert setting.flag in (told if setting.positional else flags)


@pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda exporter: exporter.name)
def test_every_metric_says_in_whole_sentences_what_it_means(exporter: Exporter) -> None:
    for metric in metrics_of(exporter):
        told = help_of(metric)
        assert re.fullmatch(r"[A-Z0-9].*\w.*\.", told), f"{registered_name(metric)}: {told!r} is no sentence"


@pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda exporter: exporter.name)
def test_every_label_of_every_metric_has_a_meaning(exporter: Exporter) -> None:
    labels = {registered_name(metric): set(labels_of(metric)) for metric in metrics_of(exporter)}
    known = {name: set(meanings) for name, meanings in exporter.label_values().items()}
    assert known == {name: found for name, found in labels.items() if found}, "LABEL_VALUES beside the metrics"


def test_the_values_of_labels_are_those_that_the_code_gives() -> None:
    assert set(FATES) == set(Fate)
    assert set(KINDS) == set(SessionKind)
    assert set(CLOSE_REASONS) == set(CloseReason)


def test_every_log_event_is_in_the_table_and_every_entry_is_logged() -> None:
    wrong = missing_or_unused(scan())
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_meanings_of_log_events_and_reasons_are_there() -> None:
    assert [name for name, event in LOG_EVENTS.items() if not event.meaning.endswith(".")] == []
    assert [name for name, event in LOG_EVENTS.items() if not event.action.endswith(".")] == []
    assert [name for name, reason in REASONS.items() if not (reason.meaning and reason.remedy)] == []


def test_every_alert_field_has_a_description() -> None:
    assert [field.path for field in fields_of(schema()) if not field.description] == []


def test_the_headers_of_dead_letters_and_routed_records_are_those_that_are_written() -> None:
    record = Record(b"x" * (DEAD_LETTER_BYTES + 1), "input", 0, 1, 1.0)
    letter = dead_letter(Rejected(record, UndecodableError(DeadLetterReason.TOO_LONG, "cut")), DEAD_LETTER_BYTES)
    assert [name for name, _ in letter.headers] == list(DEAD_LETTER_HEADERS)
    routed = RoutedPartition("input", 0, rules.KEY_SOURCES, None, Changelog("group input", STATE_FORMATS))
    routed.feed(Record(b"x", "input", 0, 1, 1.0))
    batch = routed.take()
    assert batch is not None
    written = [name for name, _ in batch.records[0].headers]
    assert written == [name for name in ROUTED_HEADERS if name != "loggpt_route_about_several"]


def _scanned(tmp_path: Path, source: str) -> dict[str, tuple[list[str], list[str]]]:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "module.py").write_text(source, encoding="utf-8")
    return {name: (found.levels, found.fields) for name, found in scan(tmp_path, ["ours"]).items()}


@pytest.mark.parametrize(
    ("source", "events"),
    [
        ("log.info('a', x=1, y=2)", {"a": (["info"], ["x", "y"])}),
        ("self._log.error('a')\nlog.info('a', x=1)", {"a": (["error", "info"], ["x"])}),
        ("get_logger(__name__).exception('a')", {"a": (["error"], ["exception"])}),
        ("log.info('a' if x else 'b')", {"a": (["info"], []), "b": (["info"], [])}),
        ("def f():\n    place = {'x': 1}\n    log.info('a', **place)", {"a": (["info"], ["x"])}),
        (
            "def say(event, **more):\n    log.info(event, x=1, **more)\nsay('a')\nsay('b', y=2)",
            {"a": (["info"], ["x"]), "b": (["info"], ["x", "y"])},
        ),
        ("value = record.info('no event')", {}),
    ],
)
def test_the_scan_finds_names_levels_and_fields(
    tmp_path: Path, source: str, events: dict[str, tuple[list[str], list[str]]]
) -> None:
    assert _scanned(tmp_path, source) == events


@pytest.mark.parametrize("source", ["log.info(f'a{x}')", "log.info()", "log.info('a', **everything())"])
def test_an_event_that_cannot_be_read_from_the_source_is_an_error_that_names_the_place(
    tmp_path: Path, source: str
) -> None:
    with pytest.raises(UnreadableCallError, match=r"ours/module\.py:1: "):
        _scanned(tmp_path, source)


def test_a_new_event_is_told_with_what_to_add_where(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "module.py").write_text("log.info('brand_new')", encoding="utf-8")
    told = missing_or_unused(scan(tmp_path, ["ours"]))[0]
    assert told.startswith("ours/module.py:1 logs 'brand_new'")
    assert "LOG_EVENTS in loggpt_stream/log_events.py" in told
