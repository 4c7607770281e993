"""Labels beside recorded logs."""

from __future__ import annotations

import gzip
import lzma
from typing import TYPE_CHECKING

import pytest

from loggpt_stream.errors import UserError
from loggpt_stream.history import labels
from loggpt_stream.history.labels import read_labels
from loggpt_stream.lines.session import Session

if TYPE_CHECKING:
    from pathlib import Path

CSV = "id,split,failed\na,train,1\nb,train,0\nrun1,test,yes\nc,test,\nd,test,maybe\n"


def session(key: str, group: str | None = None) -> Session:
    return Session(key, "instance", 0.0, 0.0, 0, group=group)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(CSV)
    return path


def test_a_session_is_labelled_by_its_key_before_its_group(path: Path) -> None:
    labels = read_labels(str(path))
    assert labels.anomalous(session("a"), "failed") is True
    assert labels.anomalous(session("b", group="run1"), "failed") is False
    assert labels.anomalous(session("x", group="run1"), "failed") is True


def test_without_a_row_or_a_value_the_truth_is_unknown(path: Path) -> None:
    labels = read_labels(str(path))
    assert labels.anomalous(session("x"), "failed") is None
    assert labels.anomalous(session("c"), "failed") is None


def test_a_value_that_is_neither_true_nor_false_is_refused(path: Path) -> None:
    with pytest.raises(UserError, match="'maybe' is neither 1 nor 0"):
        read_labels(str(path)).anomalous(session("d"), "failed")


def test_sessions_are_selected_by_all_the_given_values(path: Path) -> None:
    labels = read_labels(str(path))
    everyone = [session("a"), session("b"), session("c"), session("x")]
    assert [each.key for each in labels.select(everyone, {"split": "train"})] == ["a", "b"]
    assert [each.key for each in labels.select(everyone, {"split": "train", "failed": "0"})] == ["b"]


def test_a_column_that_is_not_there_is_refused_with_those_that_are(path: Path) -> None:
    with pytest.raises(UserError, match="no column 'fold'; there are id, split, failed"):
        read_labels(str(path)).select([session("a")], {"fold": "1"})


def test_compressed_labels_are_read(tmp_path: Path) -> None:
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    (tmp_path / "labels.csv.xz").write_bytes(lzma.compress(CSV.encode()))
    for name in ("labels.csv.gz", "labels.csv.xz"):
        assert read_labels(str(tmp_path / name)).rows["a"]["failed"] == "1"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00a,b\n"])
def test_what_is_no_csv_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"labels\.csv: "):
        read_labels(str(tmp_path / "labels.csv"))


def test_a_truth_matches_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,failed\na,True\nb,1 \nc,no\nd,0\n")
    labels = read_labels(str(tmp_path / "labels.csv"))
    everyone = [session(key) for key in "abcd"]
    assert [each.key for each in labels.select(everyone, {"failed": "1"})] == ["a", "b"]
    assert [each.key for each in labels.select(everyone, {"failed": "false"})] == ["c", "d"]


def test_a_value_that_no_row_could_have_is_refused_with_those_there_are(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row has 'tran' as its split; there are 'test', 'train'"):
        read_labels(str(path)).require_values({"split": "tran"})
    (tmp_path / "good.csv").write_text("id,failed\na,0\n")
    read_labels(str(tmp_path / "good.csv")).require_values({"failed": "1"})


def test_a_short_row_has_no_value_where_it_ends(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,split,failed\na,val\n")
    assert read_labels(str(tmp_path / "labels.csv")).anomalous(session("a"), "failed") is None


def test_two_rows_for_one_key_that_differ_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,failed\na,1\na,0\n")
    with pytest.raises(UserError, match="two rows for 'a' that differ"):
        read_labels(str(tmp_path / "labels.csv"))
    (tmp_path / "labels.csv").write_text("id,failed\na,1\na,1\n")
    assert len(read_labels(str(tmp_path / "labels.csv")).rows) == 1


def test_a_label_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(CSV.encode())[:-12])
    with pytest.raises(UserError, match="cannot be read as a label CSV"):
        read_labels(str(tmp_path / "labels.csv.gz"))


def test_a_missing_label_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a label CSV"):
        read_labels(str(tmp_path / "away.csv"))


def test_a_label_file_that_decompresses_beyond_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "MAX_LABEL_BYTES", 1 << 20)
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(CSV.encode() + b"\n" * (2 << 20)))
    with pytest.raises(UserError, match="more than 1 MiB is no label CSV"):
        read_labels(str(tmp_path / "labels.csv.gz"))
