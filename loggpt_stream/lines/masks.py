"""Masks: what varies from event to event becomes a placeholder, so that a model sees the event and not its ids.

Numbers keep their magnitude (`<n3>` is any three-digit integer; 0 and 1 stay), HTTP status codes stay exact (`<s404>`).
A rule has one of two reaches. `line` rules may span spaces and run on the whole line. `word` rules never match across a
space, so they run on single words and what became of a word is remembered: log lines repeat their words.

Every pattern runs in linear time: repetitions are bounded or possessive, a lookbehind lets a run be tried from its
start alone, and nothing nests. Where that lookbehind stands after the first character (`_run`), it is for speed: a
pattern that starts with a set of characters is searched for several times faster. `tests/lines/test_masks.py` feeds all
of them hostile input.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    _Replace = Callable[[re.Match[str]], str]

_MEMO_WORDS: Final = 65_536
_MEMO_WORD_CHARS: Final = 128
_MEMO_STATE_CHARS: Final = 1024


@dataclass(frozen=True, slots=True)
class MaskRule:
    """One substitution.

    reach: `line` or `word`. replacement: a `re` template; or `digits` for a magnitude (`<n3>`), `hex` for a length
    (`<hex32>`), `status` for the first group followed by the second as an exact status. needs: text that every match
    contains, so that other lines and words need no search; "" where there is none.
    """

    name: str
    reach: str
    pattern: str
    replacement: str
    needs: str = ""


def _run(first: str, *, after: str) -> str:
    """Return a pattern for a character of the set `first` that does not come after one of the set `after`."""
    return f"[{first}](?<![{after}].)"


_X: Final = "0-9a-fA-F"
_UUID_REST: Final = rf"[{_X}]{{7}}-[{_X}]{{4}}-[{_X}]{{4}}-[{_X}]{{4}}-[{_X}]{{12}}(?![{_X}])"
_DATE: Final = _run("12", after="0-9") + r"[0-9]{3}-[0-9]{2}-[0-9]{2}"
_CLOCK: Final = (
    r"[0-9]{2}(?::|%3A)[0-9]{2}(?:(?::|%3A)[0-9]{2}(?:[.,][0-9]{1,9})?)?"
    r"(?:Z|(?:[+-]|%2B)[0-9]{2}(?::|%3A)?[0-9]{2})?(?![0-9])"
)
_STATUS: Final = r"[1-5][0-9]{2}(?!\w|\.\w)"
_GROUPS: Final = rf"[{_X}]{{1,4}}(?::[{_X}]{{1,4}}){{0,6}}"
_UNIT: Final = r"(?=(?:[kKMGT]i?[Bb]?|B|[mun]?s)?(?!\w|\.\w))"  # a unit or nothing, and then no more of the word
_REASONS: Final = (
    "400 Bad Request",
    "401 Unauthorized",
    "403 Forbidden",
    "404 Not Found",
    "409 Conflict",
    "429 Too Many Requests",
    "500 Internal Server Error",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Time",
)

DEFAULT_RULES: Final[tuple[MaskRule, ...]] = (
    MaskRule("timestamp", "line", f"{_DATE} {_CLOCK}", "<ts>", needs=":"),
    MaskRule(
        "datetime", "line", r"datetime\.datetime\([0-9, ]{8,48}", "datetime.datetime(<ts>", needs="datetime.datetime("
    ),
    MaskRule(
        "clf_timestamp",
        "line",
        r"[0-9]{2}/[A-Z][a-z]{2}/20[0-9]{2}[: ][0-9]{2}:[0-9]{2}:[0-9]{2}(?: [+-][0-9]{4})?(?![0-9])",
        "<ts>",
        needs="/20",
    ),
    MaskRule(
        "status", "line", rf"(tatus(?:[ _]?[Cc]ode)?['\"]?(?:[:=] ?| )['\"]?)({_STATUS})", "status", needs="tatus"
    ),
    MaskRule("http_status", "line", rf"(HTTP(?:/[0-9](?:\.[0-9])?)?\"? )({_STATUS})", "status", needs="HTTP"),
    # As in `'code': 422`; an exit or return code is no HTTP status.
    MaskRule(
        "status_code",
        "line",
        rf"(code(?<![A-Za-z_]code)(?<!xit code)(?<!turn code)['\"]?[:=] ?['\"]?)({_STATUS})",
        "status",
        needs="code",
    ),
    # keystoneauth's, nova's placement client's, and openstacksdk's ways to say it
    MaskRule("response_status", "line", rf"(RESP: \[)({_STATUS})", "status", needs="RESP: ["),
    MaskRule("got_status", "line", rf"(Got )({_STATUS}(?=:))", "status", needs="Got "),
    MaskRule("exception_status", "line", rf"(xception: )({_STATUS}(?=:))", "status", needs="xception: "),
    *(
        MaskRule(f"status_{reason[:3]}", "line", rf"(?<![\w.]){reason}", f"<s{reason[:3]}>{reason[3:]}", needs=reason)
        for reason in _REASONS
    ),
    MaskRule("temporary_path", "word", r"/tmp/[^/\s'\"]++", "/tmp/<tmp>", needs="/tmp/"),
    MaskRule("request", "word", rf"req-[{_X}]{_UUID_REST}", "<req>", needs="req-"),
    MaskRule("uuid", "word", _run(_X, after=_X) + _UUID_REST, "<uuid>", needs="-"),
    MaskRule("mac", "word", _run(_X, after=r"\w:") + rf"[{_X}](?::[{_X}]{{2}}){{5}}(?![\w:])", "<mac>", needs=":"),
    MaskRule("iso_timestamp", "word", rf"{_DATE}(?:(?:T|%20|\+){_CLOCK})?(?![0-9])", "<ts>", needs="-"),
    MaskRule(
        "clock",
        "word",
        _run("0-9", after=r"\w:.") + r"[0-9]?:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?(?![\w:])",
        "<ts>",
        needs=":",
    ),
    MaskRule(
        "device",
        "word",
        r"(?<![A-Za-z0-9])(?:tap|qv[obm]|qbr|brq|vhu|qr-|qg-|ha-|sg-|fg-|rfp-|fpr-)[0-9a-f]{8}-[0-9a-f]{2}(?![0-9a-f])",
        "<dev>",
        needs="-",
    ),
    MaskRule(
        "generated_name",
        "word",
        r"(?<![A-Za-z0-9])(tempest(?:-[A-Za-z_]{1,64}){0,4}|instance)-[0-9a-f]{6,12}(?![0-9A-Za-z])",
        r"\1-<n>",
        needs="-",
    ),
    MaskRule(
        "hash",
        "word",
        _run(_X, after="0-9a-zA-Z") + rf"(?:[{_X}]{{63}}|[{_X}]{{39}}|[{_X}]{{31}})(?![0-9a-zA-Z])",
        "hex",
    ),
    MaskRule(
        "ipv4",
        "word",
        _run("0-9", after=r"\w.") + r"[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\w|\.\w)(?::[0-9]{1,5}(?!\w)|/[0-9]{1,2}(?!\w))?",
        "<ip>",
        needs=".",
    ),
    MaskRule(
        "ipv6", "word", rf"(?<![\w:])(?:[{_X}]{{1,4}}:){{7}}[{_X}]{{1,4}}(?:/[0-9]{{1,3}})?(?![\w:])", "<ip>", needs=":"
    ),
    MaskRule(
        "short_ipv6",
        "word",
        rf"(?<![\w:])(?=[a-fA-F:]{{0,38}}[0-9])(?:{_GROUPS})?::(?:{_GROUPS})?(?:/[0-9]{{1,3}})?(?![\w:])",
        "<ip>",
        needs="::",
    ),
    MaskRule("hex_literal", "word", rf"(?<!\w)0[xX][{_X}]++(?!\w)", "<hex>", needs="0x"),
    MaskRule(
        "mixed_hex",
        "word",
        _run("0-9a-f", after="0-9a-zA-Z")
        # A letter and a digit among them: what the first one is tells which to look for.
        + r"(?:(?<=[a-f])[a-f]*+[0-9]|(?<=[0-9])[0-9]*+[a-f])[0-9a-f]*+(?<=[0-9a-f]{8})(?![0-9a-zA-Z])",
        "<hex>",
    ),
    MaskRule(
        "version", "word", _run("0-9", after=r"\w./") + r"[0-9]*+(?:\.[0-9]++){2,8}+(?!\w|\.\w)", "<ver>", needs="."
    ),
    MaskRule("float", "word", _run("0-9", after=r"\w./") + rf"[0-9]*+\.[0-9]++{_UNIT}", "<f>", needs="."),
    MaskRule("integer", "word", _run("0-9", after=r"\w.<") + rf"[0-9]*+{_UNIT}", "digits"),
)


def _digits(match: re.Match[str]) -> str:
    text = match.group()
    return text if text in ("0", "1") else f"<n{len(text)}>"


def _hex(match: re.Match[str]) -> str:
    return f"<hex{len(match.group())}>"


def _status(match: re.Match[str]) -> str:
    return f"{match[1]}<s{match[2]}>"


_FUNCTIONS: Final[dict[str, _Replace]] = {"digits": _digits, "hex": _hex, "status": _status}


class Masks:
    """Compiled mask rules. Not shared between threads: it remembers words it has masked (bounded)."""

    def __init__(self, rules: tuple[MaskRule, ...] = DEFAULT_RULES) -> None:
        """Compile `rules` (in order, `line` rules first). Raises `ValueError` for an unknown reach or a bad pattern."""
        self.rules = rules
        unknown = {rule.reach for rule in rules} - {"line", "word"}
        if unknown:
            raise ValueError(f"mask rule reach must be 'line' or 'word', not {sorted(unknown)}")
        self._line = [_compiled(rule) for rule in rules if rule.reach == "line"]
        self._word = [_compiled(rule) for rule in rules if rule.reach == "word"]
        self._memo: dict[str | tuple[int, str], str] = {}

    def mask(self, text: str) -> str:
        """Return `text` with every varying part replaced. The result is interned: distinct masked lines are few."""
        for needs, pattern, replacement in self._line:
            if needs in text:
                text = pattern.sub(replacement, text)
        memo = self._memo
        words = text.split(" ")
        for i, word in enumerate(words):
            masked = memo.get(word)
            if masked is None:
                masked = self._mask_word(word)
            words[i] = masked
        return sys.intern(" ".join(words))

    def _mask_word(self, word: str) -> str:
        masked = word
        # Words that differ in an id alone are the same from the rule on that masks it: (number of that rule, word).
        states: list[str | tuple[int, str]] = [word] if len(word) <= _MEMO_WORD_CHARS else []
        for number, (needs, pattern, replacement) in enumerate(self._word):
            if needs not in masked:
                continue
            before, masked = masked, pattern.sub(replacement, masked)
            if masked == before:
                continue
            known = self._memo.get((number, masked))
            if known is not None:
                masked = known
                break
            if len(masked) <= _MEMO_STATE_CHARS:
                states.append((number, masked))
        if len(self._memo) >= _MEMO_WORDS:
            self._memo.clear()
        for state in states:
            self._memo[state] = masked
        return masked


def _compiled(rule: MaskRule) -> tuple[str, re.Pattern[str], str | _Replace]:
    return rule.needs, re.compile(rule.pattern, re.ASCII), _FUNCTIONS.get(rule.replacement, rule.replacement)
