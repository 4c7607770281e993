"""Reading recorded logs from files."""

from __future__ import annotations

import gzip
import io
import lzma
import subprocess
import sys
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from loggpt_stream.errors import UserError
from loggpt_stream.history.corpus import Corpus, read_corpus
from loggpt_stream.history.files import Reading, expand, read_events
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.lines.names import Fate
from loggpt_stream.lines.rules import SessionRules
from testing.tiny_bundle import NOVA34

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

with lzma.open(NOVA34) as _stream:
    TEXT = b"".join(islice(_stream, 1_000))


def read(*inputs: Path | str) -> Corpus:
    return read_corpus([str(name) for name in inputs], SessionRules(), DEFAULT_RULES)


def seen(corpus: Corpus) -> list[tuple[str, list[str]]]:
    return [(session.key, session.texts) for session in corpus.sessions]


def line(second: int, text: str) -> bytes:
    instance = "aaaaaaaa-0000-4000-8000-000000000000"
    return f"2026-11-23 14:08:{second:02}.000 7 INFO nova.compute.manager [-] [instance: {instance}] {text}\n".encode()


def in_two_frames(data: bytes) -> bytes:
    """Return what `cat a.zst b.zst` gives, or a compressor with several workers."""
    half = len(data) // 2
    return zstd.compress(data[:half]) + zstd.compress(data[half:])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "nova.log"
    path.write_bytes(TEXT)
    return path


@pytest.mark.parametrize(
    ("ending", "compress"),
    [("gz", gzip.compress), ("xz", lzma.compress), ("zst", zstd.compress), ("zst", in_two_frames)],
)
def test_a_compressed_file_gives_the_sessions_of_the_plain_one(
    plain: Path, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    packed = tmp_path / f"nova.log.{ending}"
    packed.write_bytes(compress(TEXT))
    assert len(read(plain).sessions) > 10
    assert seen(read(packed)) == seen(read(plain))


def test_standard_input_gives_the_sessions_of_the_file(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT)))
    assert seen(read("-")) == seen(read(plain))


def test_a_directory_stands_for_the_files_in_it_without_the_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.log", "a.log", "deep/c.log", ".hidden"):
        (tmp_path / name).write_bytes(b"")
    assert expand([str(tmp_path)]) == [str(tmp_path / name) for name in ("a.log", "b.log", "deep/c.log")]


def test_several_files_are_merged_by_time(tmp_path: Path) -> None:
    (tmp_path / "api.log").write_bytes(line(1, "one") + line(3, "three"))
    (tmp_path / "compute.log").write_bytes(line(2, "two") + line(4, "four"))
    (session,) = read(tmp_path).sessions
    assert [text.rpartition(" ")[2] for text in session.texts] == ["one", "two", "three", "four"]


def test_a_line_that_steps_back_in_time_stays_behind_the_one_before_it(tmp_path: Path) -> None:
    (tmp_path / "api.log").write_bytes(line(5, "first") + line(1, "second"))
    (tmp_path / "compute.log").write_bytes(line(3, "other"))
    (session,) = read(tmp_path).sessions
    assert [text.rpartition(" ")[2] for text in session.texts] == ["other", "first", "second"]


def test_what_cannot_be_decoded_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "nova.log"
    path.write_bytes(line(1, "one") + b"\x00\xff\xfe\xfd" * 40 + b"\n" + line(2, "two"))
    corpus = read(path)
    assert corpus.reading.records == 3
    assert corpus.reading.bytes == path.stat().st_size
    assert corpus.reading.rejected.total() == 1
    assert len(corpus.sessions[0].lines) == 2


def test_offsets_are_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "nova.log"
    path.write_bytes(line(1, "one") + line(2, "two"))
    assert [record.offset for _, record in read_events([str(path)], Reading())] == [0, 1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.gz", gzip.compress(TEXT)[:-100]),
        ("cut.xz", lzma.compress(TEXT)[:-100]),
        ("cut.zst", zstd.compress(TEXT)[:-100]),
        ("plain.gz", TEXT),
        ("plain.xz", TEXT),
        ("plain.zst", TEXT),
    ],
)
def test_a_damaged_or_misnamed_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: cannot be read .* ending right"):
        read(tmp_path / name)


def test_a_line_without_time_at_the_top_does_not_stand_where_the_file_ends(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"Modules were imported\n" + line(1, "api one") + line(3, "api three"))
    (tmp_path / "b.log").write_bytes(line(2, "api two"))
    assert [event.message for event, _ in read_events([str(tmp_path)], Reading()) if event.logger] == [
        "api one",
        "api two",
        "api three",
    ]


def test_a_line_from_the_future_of_its_file_counts_as_the_line_before_it(tmp_path: Path) -> None:
    odd = line(2, "odd").replace(b"2026", b"2099")
    (tmp_path / "a.log").write_bytes(line(1, "one") + odd + line(3, "three"))
    found = [(event.message, event.time_s) for event, _ in read_events([str(tmp_path / "a.log")], Reading())]
    assert [message for message, _ in found] == ["one", "odd", "three"]
    assert found[0][1] == found[1][1] < found[2][1]


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"away\.log: no such file or directory"):
        read(tmp_path / "away.log")
    with pytest.raises(UserError, match="no log files in"):
        read(tmp_path)
    with pytest.raises(UserError, match="no log files in nothing"):
        read()


def test_every_line_is_in_one_session_or_counted(plain: Path) -> None:
    corpus = read(plain)
    in_sessions = sum(len(session.lines) for session in corpus.sessions)
    assert in_sessions == corpus.fates[Fate.LINE] + corpus.fates[Fate.LATE_LINE]
    assert corpus.fates.total() + corpus.reading.rejected.total() == corpus.reading.records == 1_000


def test_at_the_end_of_the_input_every_session_closes(plain: Path) -> None:
    corpus = read(plain)
    assert all(session.close_reason for session in corpus.sessions)
    assert "end_of_input" in {session.close_reason for session in corpus.sessions}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bomb.gz", "bomb.xz", "bomb.zst"])
def test_a_file_that_decompresses_to_one_endless_line_takes_bounded_memory(tmp_path: Path, name: str) -> None:
    file, mebibyte = tmp_path / name, b"a" * (1 << 20)
    writer: Any = {"bomb.gz": gzip.open, "bomb.xz": lzma.open, "bomb.zst": zstd.open}[name]
    with writer(file, "wb") as stream:
        for _ in range(256):
            stream.write(mebibyte)
        stream.write(b"\n" + line(7, "after it"))
    assert file.stat().st_size < 1 << 20
    code = (
        "import resource, sys\n"
        "from loggpt_stream.history.files import Reading, read_events\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, reading = peak(), Reading()\n"
        "events = [event.message for event, _ in read_events([sys.argv[1]], reading)]\n"
        "print(peak() - before, reading.records, reading.bytes, dict(reading.rejected), events)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True).stdout
    grown_mib, rest = told.split(" ", 1)
    assert float(grown_mib) < 120
    assert rest.strip() == f"2 {(256 << 20) + 1 + len(line(7, 'after it'))} {{'too_long': 1}} ['after it']"
