"""Masks: what each rule does and leaves alone, on examples from real logs; hostile input; the two recordings."""

from __future__ import annotations

import functools
import lzma
import time
from collections import Counter
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.masks import DEFAULT_RULES, MaskRule, Masks
from loggpt_stream.lines.record import Record, UndecodableError

UUID = "7c394555-b573-4de3-a038-789af2d1ff4d"
FAULTS = Path(__file__).parents[2].parent / "shared/data/openstack-faults"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        # Times
        ("at 2026-11-23 04:07:34.520 it", "at <ts> it"),
        ("at 2026-11-23 04:07:34,520 it", "at <ts> it"),
        ("at 2026-11-23 04:07 it", "at <ts> it"),
        ("created_at=2018-06-26T03:21:04Z,", "created_at=<ts>,"),
        ("2018-06-26T03:21:04.036+00:00", "<ts>"),
        ("2026-11-23 04:07:34+0100 x", "<ts> x"),
        ("changes-since=2018-06-26T03%3A21%3A04.036%2B00%3A00 HTTP/1.1", "changes-since=<ts> HTTP/1.1"),
        ("changes-since=2018-06-26%2003%3A21%3A04", "changes-since=<ts>"),
        ("changes-since=2018-06-26+03%3A21%3A04", "changes-since=<ts>"),
        ('[26/Jun/2018 03:21:04] "GET', '[<ts>] "GET'),
        ("[23/Nov/2026:04:07:34 +0000]", "[<ts>]"),
        ("/2009-04-04/meta-data", "/<ts>/meta-data"),
        ("after 0:05:12.25 or 14:08:08", "after <ts> or <ts>"),
        ("datetime.datetime(2018, 6, 26, 3, 21, 4, tzinfo=<utc>)", "datetime.datetime(<ts>tzinfo=<utc>)"),
        # Ids
        (f"[req-{UUID}] x", "[<req>] x"),
        (f"Instance {UUID} not found", "Instance <uuid> not found"),
        (f"Instance {UUID.upper()}.", "Instance <uuid>."),
        (f'"GET /v2.1/servers/{UUID}/action"', '"GET /v2.1/servers/<uuid>/action"'),
        (f"network-vif-plugged-{UUID}", "network-vif-plugged-<uuid>"),
        (f"/var/lib/nova/instances/{UUID}_del", "/var/lib/nova/instances/<uuid>_del"),
        (f"device_id='dhcp{UUID}-{UUID}'", "device_id='dhcp<uuid>-<uuid>'"),
        ("req-nothing here", "req-nothing here"),
        ("tap1a2b3c4d-5e qvo1a2b3c4d-5e qvb1a2b3c4d-5e", "<dev> <dev> <dev>"),
        ("qbr1a2b3c4d-5e 'qr-1a2b3c4d-5e' qg-1a2b3c4d-5e", "<dev> '<dev>' <dev>"),
        ("vif_name='tap1a2b3c4d-5e')", "vif_name='<dev>')"),
        ("br-int stays, vdb and net0 too", "br-int stays, vdb and net0 too"),
        ("/v3/users/tempest-user-1530094", "/v3/users/tempest-user-<n>"),
        ("name=tempest-INSTANCE_SAMPLE-1296427153", "name=tempest-INSTANCE_SAMPLE-<n>"),
        ("tempest-private-subnet-1296427153", "tempest-private-subnet-<n>"),
        ("tempest-529a8fbc1", "tempest-<n>"),
        ("'instance-0000001a' stays", "'instance-<n>' stays"),
        ("/projects/" + "0af" * 10 + "9e", "/projects/<hex32>"),
        ("sha1 " + "0a" * 20, "sha1 <hex40>"),
        ("sha256 " + "0A" * 32, "sha256 <hex64>"),
        ("address=fa:16:3e:11:22:33,", "address=<mac>,"),
        # Addresses
        ("10.0.20.24 and (192.0.2.2)", "<ip> and (<ip>)"),
        ("http://10.0.20.24:35357/v3/", "http://<ip>/v3/"),
        ("10.0.20.0/24, 10.0.20.24.", "<ip>, <ip>."),
        ("10.1.0.1,10.1.0.2", "<ip>,<ip>"),
        ("ip-10.0.0.5:3260-iscsi", "ip-<ip>-iscsi"),
        ("fe80::f816:3eff:fe11:2233 and 2001:db8::/64", "<ip> and <ip>"),
        ("2001:db8:0:1:1:1:1:1", "<ip>"),
        ("[::1]:8774", "[<ip>]:<n4>"),
        ("std::vector a::b stay", "std::vector a::b stay"),
        # Status codes stay exact
        ('"POST /v2.1/servers" status: 202 len: 414', '"POST /v2.1/servers" status: <s202> len: <n3>'),
        ('"GET /v2.1/ HTTP/1.1" status: 200  len: 1044', '"GET /v2.1/ HTTP/1.1" status: <s200>  len: <n4>'),
        ('"GET /v2/images HTTP/1.1" 200 2157 0.25', '"GET /v2/images HTTP/1.1" <s200> <n4> <f>'),
        ("http://10.0.0.1/v2 returned with HTTP 404", "http://<ip>/v2 returned with HTTP <s404>"),
        ("HTTP exception thrown: Conflict (HTTP 409)", "HTTP exception thrown: Conflict (HTTP <s409>)"),
        ("{u'name': u'network-changed', u'code': 422}", "{u'name': u'network-changed', u'code': <s422>}"),
        ("RESP: [409] Content-Length: 120", "RESP: [<s409>] Content-Length: <n3>"),
        ("in placement API. Got 409: {..}", "in placement API. Got <s409>: {..}"),
        ("ConflictException: 409: Client Error for url", "ConflictException: <s409>: Client Error for url"),
        ('"GET / HTTP/2" 503 12', '"GET / HTTP/<n1>" <s503> <n2>'),
        ("{'status': '404', \"code\": \"409\"}", "{'status': '<s404>', \"code\": \"<s409>\"}"),
        ("429 Too Many Requests", "<s429> Too Many Requests"),
        ("status code 503. Status: 500, status=404", "status code <s503>. Status: <s500>, status=<s404>"),
        ("status_code=409 'status': 207", "status_code=<s409> 'status': <s207>"),
        ("Service Unavailable: 503 Service Unavailable", "Service Unavailable: <s503> Service Unavailable"),
        ("Exit code: 255, exit_code=137, return code: 100", "Exit code: <n3>, exit_code=<n3>, return code: <n3>"),
        ("status: 2001 and status: 999", "status: <n4> and status: <n3>"),
        ("code: 404.5", "code: <f>"),
        # Numbers
        ("object at 0x7fA01c> flags 0X1", "object at <hex>> flags 0X1"),
        ("scsi-36001405a1b2c3d4", "scsi-<hex>"),
        ("volume 5f2a9c1e gone", "volume <hex> gone"),
        ("deadbeef decade stay", "deadbeef decade stay"),
        ("version 34.0.0)", "version <ver>)"),
        ("1.2 of 4.2.0 release", "<f> of <ver> release"),
        ("0 1 2 10 255 2048 1234567", "0 1 <n1> <n2> <n3> <n4> <n7>"),
        ("00 01 -1 -5", "<n2> <n2> -1 -<n1>"),
        ("len:414 port=8774, (3)", "len:<n3> port=<n4>, (<n1>)"),
        ("compute-01:1f", "compute-<n2>:1f"),
        ("phys_ram=16383MB 60s 1.5s 12.5MB/s", "phys_ram=<n5>MB <n2>s <f>s <f>MB/s"),
        ("Took 1.53 seconds. 0.25, 0.1.", "Took <f> seconds. <f>, <f>."),
        ("x86_64 python2.7 m1.tiny net0 v3 vda1 ipv4", "x86_64 python2.7 m1.tiny net0 v3 vda1 ipv4"),
        ("/v2.1/ /v3/ HTTP/1.1 HTTP/2.0", "/v2.1/ /v3/ HTTP/1.1 HTTP/2.0"),
        ("/tmp/tmpAb12/disk /var/tmp/x9", "/tmp/<tmp>/disk /var/tmp/<tmp>"),
        ("'/tmp/openstack-vmware-1' x", "'/tmp/<tmp>' x"),
        ("", ""),
        (" two  spaces ", " two  spaces "),
        ("no numbers at all", "no numbers at all"),
    ],
)
def test_a_line_is_masked_as_stated_and_masking_again_changes_nothing(text: str, masked: str) -> None:
    masks = Masks()
    assert masks.mask(text) == masked
    assert masks.mask(masked) == masked


def test_a_huge_number_says_its_magnitude() -> None:
    assert Masks().mask("9" * 5000) == "<n5000>"


PIECES = st.sampled_from(
    [
        *(
            UUID,
            f"req-{UUID}",
            "2026-11-23",
            "14:08:08.121",
            "T",
            "%20",
            " ",
            "  ",
            "HTTP",
            "HTTP/1.1",
            "status: ",
            "code",
        ),
        *("tap1a2b3c4d-5e", "tempest-", "instance-", "/tmp/", "fa:16:3e:11:22:33", "10.0.0.1", ":8774", "/24", "::"),
        *(
            "fe80",
            "0x",
            "1f",
            "a" * 32,
            "404",
            "0",
            "1",
            "7",
            "123456",
            ".",
            ",",
            ":",
            "-",
            "_",
            "/",
            "=",
            "'",
            '"',
            "<",
            ">",
        ),
        *("<n3>", "<ts>", "<ip>", "<hex32>", "<s404>", "Not Found", "MB", "s", "v2.1", "é", "٣", "\n", "word"),
    ]
)
LINES = st.lists(PIECES | st.text(max_size=6), max_size=24).map("".join)


@given(LINES)
@settings(max_examples=100, deadline=None)
def test_words_remembered_from_other_lines_change_nothing(text: str) -> None:
    masks = Masks()
    fresh = masks.mask(text)
    assert masks.mask(text) == fresh
    # Words remembered through another line with the same words in another order:
    other = Masks()
    other.mask(" ".join(reversed(text.split(" "))))
    assert other.mask(text) == fresh


@given(
    st.lists(
        st.sampled_from(["id", UUID, UUID[::-1], "fa:16:3e:11:22:33", "5", "fe:16:3e:11:22:99", "(", "=", "77"]),
        max_size=9,
    )
)
@settings(max_examples=100, deadline=None)
def test_memory_of_half_masked_words_gives_what_fresh_masks_give(pieces: list[str]) -> None:
    shared = Masks()
    words = [separator.join(pieces) for separator in ("-", ",", "=", "")]
    for word in [*words, *reversed(words)]:
        assert shared.mask(word) == Masks().mask(word)


def test_memory_is_bounded_and_a_full_one_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loggpt_stream.lines.masks._MEMO_WORDS", 8)
    masks = Masks()
    for number in range(2, 200):
        assert masks.mask(f"port {number}x and {number}") == f"port {number}x and <n{len(str(number))}>"
        assert len(masks._memo) < 16


def test_rules_survive_json_and_give_the_same_masks() -> None:
    again = tuple(MaskRule(**asdict(rule)) for rule in DEFAULT_RULES)
    assert again == DEFAULT_RULES
    assert len({rule.name for rule in DEFAULT_RULES}) == len(DEFAULT_RULES)
    assert Masks(again).mask(f"id {UUID}") == "id <uuid>"


def test_own_rules_replace_the_default_ones() -> None:
    masks = Masks((MaskRule("vm", "word", r"vm-\w+", "<vm>"), MaskRule("pair", "line", r"(a) (b)", r"\2 \1")))
    assert masks.mask(f"vm-77 a b {UUID}") == f"<vm> b a {UUID}"


def test_a_word_made_by_one_rule_is_not_taken_for_the_same_word_of_a_log() -> None:
    masks = Masks((MaskRule("first", "word", "^b$", "c"), MaskRule("second", "word", "^a$", "b")))
    assert masks.mask("b") == "c"
    assert masks.mask("a") == "b"


def test_a_rule_of_unknown_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'line' or 'word'.*'page'"):
        Masks((MaskRule("x", "page", "x", "y"),))


def test_a_needed_text_is_in_every_match() -> None:
    # `needs` only saves searches: without it every example gives the same.
    bare = Masks(tuple(MaskRule(r.name, r.reach, r.pattern, r.replacement) for r in DEFAULT_RULES))
    masks = Masks()
    for line in nova34_lines()[:2000]:
        assert bare.mask(line) == masks.mask(line)


HOSTILE = {
    "digits": "7",
    "ones": "1",
    "hex": "a1",
    "letters_of_hex": "a",
    "upper_hex": "F",
    "half_uuids": "7c394555-b573-4de3-a038-",
    "requests": "req-",
    "half_requests": f"req-{UUID[:-1]}-",
    "uuids_joined": UUID,
    "colons": ":",
    "dots": ".",
    "digit_dot": "1.",
    "digit_colon": "1:",
    "hex_colon": "ff:",
    "macs": "fa:16:3e:11:22:",
    "addresses": "10.0.0.",
    "double_colons": "1::",
    "half_dates": "2026-11-23 04:",
    "dates_joined": "2026-11-23T04:07:34",
    "url_dates": "2018-06-26T03%3A21%3A",
    "clf": "26/Jun/2018 03:21:0",
    "dashes": "-",
    "hex_dash": "1-",
    "tempest": "tempest-",
    "temporary": "/tmp/",
    "slashes": "/",
    "devices": "tap1a2b3c4d-5",
    "zero_x": "0x",
    "status": "status: ",
    "response": "RESP: [",
    "got": "Got ",
    "exception": "Exception: ",
    "status_code": "status code",
    "http": "HTTP ",
    "http_slash": 'HTTP/1.1" ',
    "code": "code: ",
    "reasons": "404 Not ",
    "datetimes": "datetime.datetime(1, ",
    "commas": "datetime.datetime(,",
    "underscores": "1_",
    "units": "5MB",
    "spaces": " ",
    "nines_and_spaces": "99 ",
    "newlines": "1\n",
    "angles": "<n",
    "nul": "\0",
    "wide": "\U0001d7d8",
}


HOSTILE_AFTER_A_START = {
    "name": ("tempest-", "a"),
    "name_parts": ("tempest", "-a"),
    "hex_name": ("tempest-x-", "0"),
    "year": ("2026-11-23 ", "04:"),
    "uuid_start": (UUID[:-1], "-"),
    "path": ("/tmp/", "a"),
    "zero_x_run": ("0x", "f"),
    "address": ("10.0.0.1", ".1"),
    "version": ("1.1.1.1.1.1.1.1.1.1", ".1"),
    "fraction": ("1.", "5"),
    "hash": ("a1" * 16, "a"),
}


# What looks right to its very end, where a pattern that tries every start of a run again would be quadratic.
HOSTILE_AT_THE_END = ("digits", "hex", "letters_of_hex", "digit_dot", "digit_colon", "hex_colon", "hex_dash", "dots")


@pytest.mark.parametrize(
    ("start", "unit", "end"),
    [
        *(("", unit, "") for unit in HOSTILE.values()),
        *((start, unit, "") for start, unit in HOSTILE_AFTER_A_START.values()),
        *(("", HOSTILE[name], "x") for name in HOSTILE_AT_THE_END),
    ],
    ids=[*HOSTILE, *HOSTILE_AFTER_A_START, *(f"{name}_then_x" for name in HOSTILE_AT_THE_END)],
)
def test_eight_times_the_hostile_input_takes_about_eight_times_as_long(start: str, unit: str, end: str) -> None:
    def cpu_s(characters: int, runs: int) -> float:
        text = start + unit * (characters // len(unit)) + end
        best_s = float("inf")
        for _ in range(runs):
            masks = Masks()
            start_s = time.process_time()
            masks.mask(text)
            best_s = min(best_s, time.process_time() - start_s)
        return best_s

    short_s = cpu_s(131_072, runs=2)
    # The floor is for inputs that take next to nothing: there the clock's grain would decide.
    assert cpu_s(1_048_576, runs=1) < 24 * max(short_s, 0.002)


@given(st.lists(st.tuples(PIECES, st.sampled_from([" ", ", ", "=", "(", "/", "'", '"'])), max_size=16))
@settings(max_examples=150, deadline=None)
def test_masking_again_changes_nothing(pieces: list[tuple[str, str]]) -> None:
    # Ids glued to each other are left out: masking the first may free the second.
    masks = Masks()
    once = masks.mask("".join(piece + separator for piece, separator in pieces))
    assert masks.mask(once) == once


@functools.cache
def nova34_lines() -> list[str]:
    raw = lzma.decompress((files("loggpt_stream") / "data/nova34/nova34.log.xz").read_bytes())
    lines = []
    for offset, value in enumerate(raw.splitlines()):
        try:
            events = decode(Record(value, "t", 0, offset, 0.0))
        except UndecodableError:
            continue
        lines += [f"{e.level} {e.logger} {e.message}" for e in events if not e.fragment]
    return lines


def test_a_recording_of_nova_34_has_few_distinct_lines_and_no_id_among_them() -> None:
    masks = Masks()
    forms = Counter(masks.mask(line) for line in nova34_lines())
    assert sum(forms.values()) > 28_000
    assert len(forms) < 320
    assert sum(count for _, count in forms.most_common(120)) > 0.97 * sum(forms.values())
    # What differs in meaning stays apart:
    for status in ("<s200>", "<s202>", "<s404>", "<s500>"):
        assert any(status in form for form in forms)
    for state in ("(spawning)", "(deleting)", "VM Started", "VM Stopped"):
        assert any(state in form for form in forms)
    # Idempotent on all that occurs:
    assert all(masks.mask(form) == form for form in forms)


@pytest.mark.skipif(not FAULTS.is_dir(), reason=f"no recorded faults at {FAULTS}")
def test_real_failures_of_a_whole_deployment_have_few_distinct_lines() -> None:
    masks = Masks()
    forms: Counter[str] = Counter()
    with lzma.open(FAULTS / "nova.jsonl.xz", "rb") as stream:
        for offset, value in zip(range(25_000), stream, strict=False):
            for event in decode(Record(value, "t", 0, offset, 0.0)):
                if not event.fragment:
                    forms[masks.mask(f"{event.level} {event.logger} {event.message}")] += 1
    assert len(forms) < 400
    assert all(masks.mask(form) == form for form in forms)
