"""Log text in reports: nothing in it ends its code span, controls a terminal, or is a formula of a spreadsheet."""

from __future__ import annotations

import pytest

from calibrate.diagnosis import IDENTICAL_SCORES, Finding
from calibrate.report import _finding_text, _plain
from calibrate.sessions import printable

HOSTILE = "`</code><script>alert(1)</script>`\x1b[2J\x9b\u202e\r|\n# heading"


def test_log_text_stays_within_its_code_span() -> None:
    text = printable(HOSTILE)
    assert text.isprintable()
    assert "`" not in text
    finding = Finding(IDENTICAL_SCORES, "warning", "instance", "seen", "why", "remedy", evidence=(text,))
    (line,) = [each for each in _finding_text(1, finding) if "script" in each]
    assert line.startswith("  - `")
    assert line.endswith("`")
    assert line.count("`") == 2


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_is_no_formula(cell: str) -> None:
    assert _plain(cell) == f"'{cell}"
    assert _plain("instance") == "instance"
