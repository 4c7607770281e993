"""The names that are stored and sent: they keep their values, print as them, and the glossary has each."""

from __future__ import annotations

from pathlib import Path

import pytest

from loggpt_stream.lines.names import CloseReason, DeadLetterReason, Fate, SessionKind, WireName

GLOSSARY = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()


@pytest.mark.parametrize("name", [*SessionKind, *CloseReason, *Fate, *DeadLetterReason])
def test_a_name_equals_hashes_and_prints_as_its_text_in_a_dict_too(name: WireName) -> None:
    assert name == name.value
    assert {name: 1} == {name.value: 1}
    assert f"{name} {[name]}" == f"{name.value} {[name.value]}"


@pytest.mark.parametrize("name", [*SessionKind, *CloseReason, *Fate])
def test_the_glossary_has_every_kind_close_reason_and_fate(name: WireName) -> None:
    assert f"`{name}`" in GLOSSARY


def test_only_what_a_limit_cut_goes_on_in_a_next_part() -> None:
    assert {reason for reason in CloseReason if reason.continues} == {"max_age", "max_lines", "memory"}
