"""State topics as each released version wrote them, and what that version restores from them: tests/golden/state-*.

    python -m testing.make_golden_state              # writes what is missing, of 0.1.0 and of the code here

The files of a released version are made once, by its own code (tests/golden/loggpt_stream-VERSION.tar.xz), and never
again: whatever is wrong in them, operators' topics have it too. This file therefore runs on the code of every version:
what is called differently is looked up in `code_here`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
RELEASES = {"0.1.0": "3ea6e6b"}
# The newest format has files too, for the versions to come. Made anew only as long as it is not released.
UNRELEASED = "0.2.0"
OWNERS = {"daemon": "group input", "router": "group raw"}
# Where, in the input below, another bundle comes, there is an early alert, and what is pending is judged.
_ANOTHER_BUNDLE_AT = 14
_EARLY_ALERT_AT = 30
_JUDGED_AT = (27, 31)
_START_S = 1_795_442_880.0  # 2026-11-23 14:08:00 UTC
_VMS = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(9)]
_REQUESTS = [f"req-{number:08d}-0000-4000-8000-000000000000" for number in range(5)]
_PROJECT = "5e1c0de0f00d4a6b8c7d6e5f4a3b2c1d"


def released_code(version: str) -> Path:
    """Return the archive of a released version's package, as far as it is needed to run daemon and router."""
    return GOLDEN / f"loggpt_stream-{version}.tar.xz"


def _make_archive(version: str, commit: str) -> None:
    """Put the modules of a released version, and its alert schema, into an archive."""
    whole = subprocess.run(["git", "archive", commit, "loggpt_stream"], check=True, capture_output=True).stdout
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(whole)) as source, tarfile.open(fileobj=packed, mode="w") as target:
        for member in source.getmembers():
            if member.isfile() and member.name.endswith((".py", "alert.schema.json")):
                target.addfile(member, source.extractfile(member))
    released_code(version).write_bytes(lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def code_here() -> SimpleNamespace:
    """Return what is needed of the version that is imported."""
    from functools import partial  # noqa: PLC0415

    from loggpt_stream import __version__  # noqa: PLC0415 - all of these: of the version that is asked for
    from loggpt_stream.daemon.partition import Partition  # noqa: PLC0415
    from loggpt_stream.route.partition import RoutedPartition  # noqa: PLC0415

    # A module that this version lacks might be found in the code here, which is installed: so nothing is tried out.
    if __version__ == "0.1.0":
        from loggpt_stream.daemon.alert import Judged as JudgedSession  # noqa: PLC0415

        from loggpt_stream.daemon import ledger as changelogs  # noqa: PLC0415
        from loggpt_stream.daemon.partition import Meaning  # noqa: PLC0415

        new_changelog = dict.fromkeys(OWNERS, changelogs.Ledger)
        judged = {"anomalous": False}

        def new_partition(rules: Any, masks: Any, judge: Any, changelog: Any) -> Any:  # noqa: ANN401 - of any version
            fingerprint = hashlib.sha256(repr((rules, masks.rules)).encode()).hexdigest()[:16]
            return Partition("input", 0, Meaning(rules, masks, fingerprint, judge), changelog)

    else:
        from loggpt_stream.alerts.alert import JudgedSession  # noqa: PLC0415
        from loggpt_stream.daemon.state_formats import STATE_FORMATS as OF_DAEMON  # noqa: PLC0415
        from loggpt_stream.kafka import changelog as changelogs  # noqa: PLC0415
        from loggpt_stream.lines.gathering import Gathering  # noqa: PLC0415
        from loggpt_stream.route.state_formats import STATE_FORMATS as OF_ROUTER  # noqa: PLC0415

        formats = {"daemon": OF_DAEMON, "router": OF_ROUTER}
        new_changelog = {program: partial(changelogs.Changelog, formats=each) for program, each in formats.items()}
        judged = {}

        def new_partition(rules: Any, masks: Any, judge: Any, changelog: Any) -> Any:  # noqa: ANN401 - of any version
            return Partition("input", 0, Gathering(rules, masks), judge, changelog)

    return SimpleNamespace(
        new_partition=new_partition,
        RoutedPartition=RoutedPartition,
        JudgedSession=JudgedSession,
        judged=judged,
        new_changelog=new_changelog,
        changelogs=changelogs,
    )


def daemon_partition(code: SimpleNamespace, idle_gap_s: float = 25.0) -> tuple[Any, Any]:
    """Return a partition under a bundle whose rules have this idle gap, and its changelog."""
    from loggpt_stream.lines.masks import Masks  # noqa: PLC0415
    from loggpt_stream.lines.rules import SessionRules  # noqa: PLC0415
    from loggpt_stream.model.calibration import Calibration, Judge, KindCalibration  # noqa: PLC0415

    rules = SessionRules(unkeyed="window", idle_gap_s=idle_gap_s, max_lines=6, grace_s=2.0)
    kind = KindCalibration(
        combination="unused",
        threshold=1.0,
        basis="conformal",
        false_alarm_rate=0.1,
        scales={},
        normal_scores=(1.0,),
    )
    calibration = Calibration({"instance": kind})
    changelog = code.new_changelog["daemon"](OWNERS["daemon"], most_changes=4)
    return code.new_partition(rules, Masks(), lambda: Judge(calibration), changelog), changelog


def router_partition(code: SimpleNamespace) -> tuple[Any, Any]:
    """Return a router's partition, and its changelog."""
    from loggpt_stream.lines.rules import KEY_SOURCES  # noqa: PLC0415

    changelog = code.new_changelog["router"](OWNERS["router"], most_changes=4)
    return code.RoutedPartition("raw", 0, KEY_SOURCES, None, changelog), changelog


def _stamp(second: float) -> str:
    return f"2026-11-23 14:{8 + int(second // 60):02d}:{second % 60:06.3f}"


def _line(second: float, text: str, *, vm: int | None = None, request: int | None = None, process: int = 7) -> bytes:
    context = f"[{'-' if request is None else f'{_REQUESTS[request]} {_PROJECT} {_PROJECT} - - default default'}]"
    place = "" if vm is None else f"[instance: {_VMS[vm]}] "
    return f"{_stamp(second)} {process} INFO nova.compute.manager {context} {place}{text}".encode()


def _traceback(second: float, process: int, *lines: str) -> list[bytes]:
    return [f"{_stamp(second)} {process} ERROR nova.compute.manager {line}".encode() for line in lines]


def _input() -> list[tuple[bytes | None, tuple[tuple[str, bytes], ...]]]:
    """Return values and headers of the records, in four pieces of equal length or so: commits come between them."""
    trace = (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
    entry = {"message": "", "hostname": "compute-02", "program": "nova-compute"}
    several = [entry | {"message": _line(9, f"entry {number}", vm=number, process=9).decode()} for number in (1, 8)]
    plain: list[bytes | None] = [
        *[_line(second, f"step {second}", vm=0) for second in range(3)],
        _line(3, "Attempting claim", vm=1, request=0),
        _line(4, "of a request that names one instance", request=0),
        _line(5, "of a request that names none", request=1),
        _line(5.5, "of a request that names several", vm=2, request=2),
        _line(5.6, "of a request that names several", vm=3, request=2),
        _line(6, "of nobody"),
        b"what has no header",
        None,
        *[_line(6.5 + number / 7, f"line {number} of many", vm=4, process=11) for number in range(9)],
        _line(8, "it fails", vm=1, process=12),
        *_traceback(8, 12, "Traceback (most recent call last):", '  File "a.py", line 1', "KeyError: 'port'"),
        orjson.dumps(several),
        _line(10, "Deleted allocations for instance", vm=5),
        _line(14, "comes after the end of vm 5", vm=6),
        _line(14.5, "late", vm=5),
        _line(15, "it fails again", vm=6, process=13),
        *_traceback(15, 13, "Traceback (most recent call last):", '  File "b.py", line 2'),
        _line(16, "Deleted allocations for instance", vm=7, process=15),
        _line(16.000001, "between two milliseconds", vm=0),
        _line(20, "the last of vm 1", vm=1, request=3),
        _line(21, "Deleted allocations for instance", vm=3, process=16),
    ]
    records = [(value, ()) for value in plain]
    explicit = [
        (_line(11 + number, f"run {number}", process=20), (("session_id", b"run-1"), *trace)) for number in (0, 1)
    ]
    return [*records[:24], *explicit, *records[24:]]


def daemon_pairs(code: SimpleNamespace) -> list[tuple[bytes, bytes | None]]:
    """Return keys and values of the daemon's state topic: two versions of a bundle, several generations, and parts."""
    import numpy as np  # noqa: PLC0415

    from loggpt_stream.lines.record import Record  # noqa: PLC0415
    from loggpt_stream.model.calibration import Verdict  # noqa: PLC0415
    from loggpt_stream.model.scoring import SessionScore  # noqa: PLC0415

    code.changelogs.PART_BYTES = 600
    pairs: list[tuple[bytes, bytes | None]] = [(b"barrier", b"0"), (b"7/0", None)]
    partition, _ = daemon_partition(code, idle_gap_s=24.0)
    partition.begin_at(0)

    def judged(session: Any) -> Any:  # noqa: ANN401 - of any version
        score = SessionScore(np.zeros(len(session.lines)), [], {})
        return code.JudgedSession("input", 0, session, score, Verdict(**code.judged))

    records = _input()
    for offset, (value, headers) in enumerate(records):
        if offset == _ANOTHER_BUNDLE_AT:
            # Another bundle: what is open now was gathered under the one before.
            partition, changelog = daemon_partition(code)
            partition.restore(changelog.read(pairs))
            pairs.append((b"barrier", b"1"))
        partition.feed(Record(value, "input", 0, offset, _START_S + 3600 + offset, headers=headers), _START_S + 7200)
        if offset == _EARLY_ALERT_AT:
            opened = partition.sessionizer.tables.by_opening["instance", _VMS[1]]
            partition.announce(judged(opened), _START_S + 30.25)
        if offset in _JUDGED_AT and partition.pending:
            partition.judged(judged(next(iter(partition.pending.values()))))
        if offset == len(records) - 1:
            for second in (0, 1):
                partition.tick(_START_S + 7200 + second, caught_up=True, clock_speed=1.0)
        if not (offset + 1) % 3 or offset == len(records) - 1:
            pairs += [(each.key, each.value) for each in partition.take().state]
    return pairs


def router_pairs(code: SimpleNamespace) -> list[tuple[bytes, bytes | None]]:
    """Return keys and values of the router's state topic."""
    from loggpt_stream.lines.record import Record  # noqa: PLC0415

    code.changelogs.PART_BYTES = 300
    pairs: list[tuple[bytes, bytes | None]] = [(b"barrier", b"0")]
    partition, _ = router_partition(code)
    partition.begin_at(0)
    records = _input()
    for offset, (value, headers) in enumerate(records):
        partition.feed(Record(value, "raw", 0, offset, _START_S + 3600 + offset, headers=headers))
        if not (offset + 1) % 6 or offset == len(records) - 1:
            pairs += [(each.key, each.value) for each in partition.take().state]
    return pairs


def restored_daemon(code: SimpleNamespace, pairs: list[tuple[bytes, bytes | None]]) -> dict[str, Any]:
    """Return all that a partition of the daemon has after its state was read."""
    partition, changelog = daemon_partition(code)
    partition.restore(changelog.read(pairs))
    tables = partition.sessionizer.tables
    return _json(
        {
            "position": partition.position,
            "last_record": partition.last_record,
            "reached_s": partition.reached_s,
            "drift": partition.judge.state(),
            "clock": [tables.watermark_s, tables.offset, tables.index],
            "open": [_session(each) for each in tables.by_opening.values()],
            "active": list(tables.active),
            "ending": list(tables.ending),
            "pending": [_session(each) for each in partition.pending.values()],
            "tombstones": [[*key, *grave] for key, grave in tables.tombstones.items()],
            "links": list(tables.instance_of_request.items()),
            "parents": [_parent(each, tables.parents) for each in tables.parents],
            "size": [tables.open_lines, tables.open_bytes],
        }
    )


def restored_router(code: SimpleNamespace, pairs: list[tuple[bytes, bytes | None]]) -> dict[str, Any]:
    """Return all that a partition of the router has after its state was read."""
    partition, changelog = router_partition(code)
    partition.restore(changelog.read(pairs))
    keys = partition._keys
    return _json(
        {
            "position": partition.position,
            "last_record": partition.last_record,
            "links": list(keys._instance_of_request.items()),
            "parents": [_parent(each, keys._parents) for each in keys._parents],
        }
    )


def _session(session: Any) -> dict[str, Any]:  # noqa: ANN401 - of any version
    names = (
        *("kind", "key", "first_offset", "first_index", "part", "late", "group", "project_id", "traceparent", "hosts"),
        *("ending", "announced_s", "outdated", "opened_s", "last_seen_s", "closed_s", "close_reason", "bytes"),
    )
    lines = [[each.time_s, each.offset, each.index, each.head, each.tail, each.rest] for each in session.lines]
    return {name: getattr(session, name) for name in names} | {"lines": lines}


def _parent(parent: Any, parents: Any) -> list[Any]:  # noqa: ANN401 - of any version
    session = parent.session and parent.session()
    place = "none" if parent.session is None else "gone" if session is None else [*session.identity, parent.line]
    flags = [parent.reader.in_frames, parent.session_id, parent.headerless, parents.is_newest(parent)]
    return [*parent.writer, parent.time_s, place, parent.key, *flags]


def _json(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(orjson.dumps(values))
    return found


PROGRAMS = {"daemon": (daemon_pairs, restored_daemon), "router": (router_pairs, restored_router)}


def read_pairs(version: str, program: str) -> list[tuple[bytes, bytes | None]]:
    """Return key and value of each record of a golden state topic."""
    content = lzma.decompress((GOLDEN / f"state-{version}-{program}.jsonl.xz").read_bytes())
    pairs = (orjson.loads(line) for line in content.splitlines())
    return [(base64.b64decode(key), None if value is None else base64.b64decode(value)) for key, value in pairs]


def read_expected(version: str, program: str) -> dict[str, Any]:
    """Return what the version that wrote a golden state topic restores from it."""
    expected: dict[str, Any] = orjson.loads((GOLDEN / f"state-{version}-{program}.restored.json").read_bytes())
    return expected


def _write(version: str, golden: Path) -> None:
    """Write the files of a version, whose code is the one that is imported."""
    code = code_here()
    for program, (make_pairs, restore) in PROGRAMS.items():
        pairs = make_pairs(code)
        encoded = [(base64.b64encode(key), value and base64.b64encode(value)) for key, value in pairs]
        lines = [orjson.dumps([key.decode(), value and value.decode()]) for key, value in encoded]
        packed = lzma.compress(b"\n".join(lines) + b"\n", preset=9 | lzma.PRESET_EXTREME)
        (golden / f"state-{version}-{program}.jsonl.xz").write_bytes(packed)
        shown = orjson.dumps(restore(code, pairs), option=orjson.OPT_INDENT_2)
        (golden / f"state-{version}-{program}.restored.json").write_bytes(shown + b"\n")


def main() -> None:
    """Write what is missing."""
    if sys.argv[1:]:
        _write(sys.argv[1], GOLDEN)
        return
    for version, commit in RELEASES.items():
        if not released_code(version).exists():
            _make_archive(version, commit)
        if not (GOLDEN / f"state-{version}-daemon.jsonl.xz").exists():
            with tempfile.TemporaryDirectory() as folder, tarfile.open(released_code(version)) as archive:
                archive.extractall(folder, filter="data")
                # The file, and not the module: its folder's parent must not come before the released code.
                program = [sys.executable, __file__, version]
                subprocess.run(program, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": folder})
    _write(UNRELEASED, GOLDEN)


if __name__ == "__main__":
    main()
