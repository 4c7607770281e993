"""`loggpt-calibrate diagnose` on models and logs that really have each pathology."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from calibrate.cli import main
from calibrate.diagnosis import loss_findings, weight_findings
from calibrate.measurements import LineMeasurements, LossProfile, common_cause, find_leakage
from loggpt_stream.history.labels import Labels
from loggpt_stream.model.bundle import load_bundle, save_calibrated
from loggpt_stream.model.calibration import Calibration, KindCalibration
from loggpt_stream.model.gpt import new_model
from loggpt_stream.model.statistics import COMBINATIONS, COMBINED, fit_scales
from loggpt_stream.model.tokenizer import LineTokenizer, train_tokenizer
from tests.calibrate.conftest import LABELS, NOVA34, SHAPE, fitted_tokenizer, learn, save

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from transformers import GPT2LMHeadModel

    from loggpt_stream.lines.session import Session
    from tests.calibrate.conftest import Recording

pytestmark = pytest.mark.slow  # each test scores the recording anew

TEST = ["--labels", LABELS, "--select", "split=test"]
COLUMNS = ("id", "split", "failed")


@dataclass(frozen=True)
class Place:
    """Where the command runs: a trained bundle, the recording and the end of it as a log, and a folder to write in."""

    trained: Path
    recording: Recording
    folder: Path
    log: str
    capsys: pytest.CaptureFixture[str]

    def told(self, bundle: Path, *flags: str, code: int = 1) -> str:
        """Return what diagnose prints; it leaves its report in folder/report."""
        self.capsys.readouterr()
        report = str(self.folder / "report")
        assert main(["diagnose", "--bundle", str(bundle), "--report", report, *flags]) == code
        return self.capsys.readouterr().out

    def refused(self, bundle: Path, *flags: str) -> str:
        """Return why calibration writes no threshold."""
        self.capsys.readouterr()
        out = self.folder / "refused"
        assert main(["--bundle", str(bundle), "--out", str(out), *flags]) == 2
        assert not out.exists()
        error = self.capsys.readouterr().err
        assert "`loggpt-calibrate diagnose`" in error
        return error

    def changed(self, change: Callable[[GPT2LMHeadModel], None]) -> Path:
        """Return a bundle of the trained model with other weights."""
        bundle = load_bundle(self.trained, calibrated=False)
        model = bundle.model()
        with torch.no_grad():
            change(model)
        return save(self.folder / "bundle", model, bundle.tokenizer(), self.recording)

    def calibrated(self, statistic: str, threshold: float, sessions: list[Session]) -> Path:
        """Return a bundle whose calibration of instances is fitted to `sessions`, but for the threshold."""
        bundle = load_bundle(self.trained, calibrated=False)
        statistics = [score.statistics for score in bundle.scorer(torch.device("cpu")).score(sessions)]
        members = COMBINATIONS.get(statistic, (statistic,))
        values = tuple(sorted(each["max_line_loss"] for each in statistics))
        kind = KindCalibration(
            combination=statistic,
            threshold=threshold,
            basis="labels_f1",
            false_alarm_rate=0.1,
            scales=fit_scales(statistics, members),
            normal_scores=values,
        )
        path = self.folder / "bundle"
        used = np.array([1], dtype=np.int64)
        save_calibrated(bundle, path, calibration=Calibration({"instance": kind}), calibration_sessions=used)
        return path

    def truths(self) -> dict[str, bool]:
        """Return whether each instance of the test split failed, by key."""
        sessions = [each for each in self.recording.split("test") if not each.late]
        return {each.key: bool(self.recording.labels.anomalous(each, "failed")) for each in sessions}

    def labels(self, rows: Iterable[tuple[str, ...]], *more: str) -> str:
        """Return a label file with these rows."""
        path = self.folder / "labels.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow((*COLUMNS, *more))
            writer.writerows(rows)
        return str(path)


@pytest.fixture
def place(
    trained: Path, recording: Recording, tmp_path: Path, log_of_test: str, capsys: pytest.CaptureFixture[str]
) -> Place:
    return Place(trained, recording, tmp_path, log_of_test, capsys)


def log_of(path: Path, sessions: list[Session], first_line: Callable[[int], str]) -> Path:
    """Write the raw lines of sessions in the order of their times; where `first_line` gives one, it comes first."""
    timed: list[tuple[float, str]] = []
    for i, session in enumerate(sessions):
        opening = session.lines[0]
        if text := first_line(i):
            stamp = opening.raw[:23]
            timed.append((opening.time_s, f"{stamp} 7120 ERROR nova.virt.driver [-] [instance: {session.key}] {text}"))
        timed.extend((line.time_s, line.raw) for line in session.lines)
    timed.sort(key=lambda each: each[0])
    path.write_text("".join(f"{raw}\n" for _, raw in timed))
    return path


def test_a_model_that_has_learned_is_healthy_calibrated_or_not(place: Place) -> None:
    assert "Healthy: no pathology was found." in place.told(place.trained, *TEST, place.log, code=0)
    report = place.folder / "report"
    names = {"diagnosis.md", "diagnosis_scores.png", "diagnosis_tokens.png"}
    assert {file.name for file in report.iterdir()} == names
    text = (report / "diagnosis.md").read_text()
    assert "Healthy" in text
    for statistic in ("everything", "max_line_loss", "digest_end_loss"):
        assert statistic in text
    assert "read like a session of training is not known" in text
    out = place.folder / "calibrated"
    validation = ["--labels", LABELS, "--select", "split=val"]
    assert main(["--bundle", str(place.trained), "--out", str(out), *validation, NOVA34]) == 0
    assert "Healthy" in place.told(out, *TEST, NOVA34, code=0)
    text = (report / "diagnosis.md").read_text()
    assert re.search(r"of 137 sessions that it did not learn from \([\d.]+%\) read exactly like one", text)
    # The sessions that the trainer held out are no leakage where they were asked for; else they are.
    assert "Healthy" in place.told(out, "--held-out", *validation, NOVA34, code=0)
    assert "WARNING sessions of validation: 92 of the 92 sessions" in place.told(out, *validation, NOVA34)


def test_one_cut_line_that_gives_all_anomalous_sessions_one_score_is_named(place: Place) -> None:
    # The old pathology: every anomalous session at one loss, and no true negative.
    known = {text for session in place.recording.learned for text in session.texts}
    truths = place.truths()
    good = [
        each
        for each in place.recording.split("test")
        if not each.late and not truths[each.key] and known.issuperset(each.texts)
    ][:40]
    words = [
        "alpha",
        "bravo",
        "charlie",
        "delta",
        "echo",
        "foxtrot",
        "golf",
        "hotel",
        "india",
        "juliet",
        "kilo",
        "lima",
    ]

    def fails(i: int) -> str:
        return f"Quux \x1b[31mfrobnication `wedged` beyond any repair near {words[i]}" if i < len(words) else ""

    log = log_of(place.folder / "failing.log", good, fails)
    rows = [(each.key, "test", "1" if i < len(words) else "0") for i, each in enumerate(good)]
    labels = place.labels(rows)
    bundle = place.calibrated("max_line_loss", 1e-9, good)
    out = place.told(bundle, "--labels", labels, str(log))
    assert "FATAL instance: identical scores: 12 of 12 anomalous sessions that read differently (100.0%)" in out
    assert "nats on the combination max_line_loss" in out
    assert "no true negative: all 28 normal sessions are above" in out
    assert "12 of 12 sessions scored again have one most surprising line" in out
    assert re.search(r"line 1 of the session\): ERROR nova.virt.driver .*Quux", out)
    assert re.search(r"token \d+ of 16 in it costs most \([\d.]+ nats\): \S", out)
    assert re.search(r"the line has \d+ tokens and is cut at 16; 12 different lines are these same tokens", out)
    assert "unknown to the tokenizer and cut to the same tokens" in out
    # What the log says is shown, but does not reach the terminal or the report as it is.
    assert "\x1b" not in out
    text = (place.folder / "report" / "diagnosis.md").read_text()
    assert "\x1b" not in text
    assert "(fatal)" in text
    # With another statistic to decide, the same sessions are told apart by the rest of their lines.
    assert "identical scores" not in place.told(place.trained, "--labels", labels, str(log), code=0)


def test_sessions_cut_to_the_same_tokens_are_found_and_not_calibrated_on(place: Place) -> None:
    # Room for hardly a whole line, and three tokens of each line: most sessions begin each line alike.
    lines = [text for session in place.recording.learned for text in session.texts]
    fitted = train_tokenizer(lines, vocabulary_size=302, piece_vocabulary_size=300)
    tokenizer = LineTokenizer(fitted, max_line_tokens=3)
    torch.manual_seed(1)
    model = new_model(SHAPE, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    learn(model, tokenizer, place.recording.learned)
    training = {"tokenizer": {"vocabulary_size": 302}, "distinct_lines": len(set(lines))}
    bundle = save(place.folder / "bundle", model, tokenizer, place.recording, training)
    out = place.told(bundle, *TEST, place.log)
    full = re.search(r"WARNING vocabulary full: The vocabulary of 302 tokens is full, \d+ of them whole lines", out)
    assert full, out
    assert re.search(r"WARNING lines cut: [\d,]+ of [\d,]+ lines \(\d\d\.\d%\) are cut at 3 tokens; uncut", out)
    short = [each for each in place.recording.sessions if each.kind == "request" and not each.late]
    measurements = LineMeasurements.of(short, tokenizer, training)
    assert measurements.alike > measurements.sessions / 2
    error = place.refused(bundle, "--kinds", "request", "--held-out", NOVA34)
    assert "3 of 7 sessions that read differently have the same language_model score" in error
    out = place.told(bundle, "--kinds", "request", "--held-out", NOVA34)
    assert "FATAL sessions alike once cut: 5 of 7 sessions" in out
    assert "These sessions are the same tokens from end to end" in out


def test_lines_of_other_logs_than_those_of_training_are_told(place: Place) -> None:
    other = [f"INFO keystone.server {word} token validated" for word in ("fresh", "stale", "scoped", "plain")]
    fitted = train_tokenizer(other, vocabulary_size=700, piece_vocabulary_size=300)
    tokenizer = LineTokenizer(fitted, max_line_tokens=64)
    model = new_model(SHAPE, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    training = {"tokenizer": {"vocabulary_size": 700}, "distinct_lines": 4}
    out = place.told(save(place.folder / "bundle", model, tokenizer, place.recording, training), *TEST, place.log)
    assert re.search(r"WARNING lines never seen: .* \(100\.0%\) are no token of their own: the model never saw", out)
    assert "no better than guessing" in out


def test_blank_weights_are_constant_losses(place: Place, blind: Path) -> None:
    out = place.told(blind, *TEST, place.log)
    assert re.search(r"FATAL constant losses: All lines cost the same: .* lie between 6\.1\d\d and 6\.1\d\d nats", out)


def test_weights_that_were_never_trained_are_told_and_not_calibrated(place: Place) -> None:
    # Its scores even order these sessions, by how many tokens lines never seen have: nothing else would refuse it.
    torch.manual_seed(42)
    tokenizer = fitted_tokenizer(place.recording)
    model = new_model(SHAPE, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    bundle = save(place.folder / "bundle", model, tokenizer, place.recording)
    flags = ["--held-out", "--labels", LABELS, "--select", "split=val", NOVA34]
    assert "no better than guessing: The median token costs 6.1" in place.refused(bundle, *flags)
    assert "FATAL no better than guessing" in place.told(bundle, *flags)


def test_a_model_that_ignores_its_context_is_told(place: Place) -> None:
    def saturate(model: GPT2LMHeadModel) -> None:
        # The last normalisation lets nothing through but its bias: one prediction, wherever it is asked for.
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(torch.linspace(-3, 3, SHAPE.width))

    bundle = place.changed(saturate)
    flags = ["--held-out", "--labels", LABELS, "--select", "split=val", NOVA34]
    out = place.told(bundle, *flags)
    assert re.search(r"FATAL context ignored: (\d+) of \1 lines that come again and again cost exactly the same", out)
    assert "No threshold is written" in place.refused(bundle, *flags) or "no threshold is written" in place.refused(
        bundle, *flags
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_tensor_with_damaged_weights_is_named(place: Place, value: float) -> None:
    def damage(model: GPT2LMHeadModel) -> None:
        model.get_parameter("transformer.h.0.mlp.c_fc.weight")[3, :5] = value

    bundle = place.changed(damage)
    out = place.told(bundle, *TEST, place.log)
    assert "FATAL damaged weights: 5 weights in 1 of" in out
    assert "transformer.h.0.mlp.c_fc.weight: 5 of 4,096 not finite, first at [3, 0]" in out
    assert "transformer.h.0.mlp.c_fc.weight" in place.refused(bundle, "--held-out", NOVA34)


def test_weights_that_overflow_are_named(place: Place) -> None:
    def explode(model: GPT2LMHeadModel) -> None:
        model.transformer.ln_f.weight.fill_(3e38)

    bundle = place.changed(explode)
    out = place.told(bundle, *TEST, place.log)
    assert "the losses are not: they overflow. The largest weight is 3e+38, in transformer.ln_f.weight" in out
    assert "not finite" in place.refused(bundle, "--held-out", NOVA34)
    assert weight_findings(dict(load_bundle(place.trained, calibrated=False).model().named_parameters())) == []


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        (-1.0, "FATAL instance: everything above the threshold: All 117 normal sessions are above the threshold"),
        (1e9, "FATAL instance: everything below the threshold: None of 137 sessions is above the threshold, 20 anom"),
    ],
)
def test_a_threshold_that_lies_beside_all_scores_is_told(place: Place, threshold: float, said: str) -> None:
    good = [each for each in place.recording.split("val") if not each.late]
    bundle = place.calibrated(COMBINED, threshold, good)
    assert said in place.told(bundle, *TEST, place.log)
    # Without labels as well: nobody expects each session to be odd, or none where one in ten was promised.
    where = "above" if threshold < 0 else "below"
    assert f"everything {where} the threshold" in place.told(bundle, "--kinds", "instance", place.log)


def test_labels_that_have_nothing_to_do_with_the_scores_are_told_and_not_calibrated_on(place: Place) -> None:
    keys = list(place.truths())
    drawn = set(np.random.default_rng(3).choice(keys, 50, replace=False).tolist())
    labels = place.labels([(key, "test", str(int(key in drawn))) for key in keys])
    flags = ["--labels", labels, place.log]
    assert re.search(
        r"FATAL instance: normal and anomalous overlap: .* no better than chance", place.told(place.trained, *flags)
    )
    # The best F1 would flag everything; with costs a threshold could be found, but not one that means anything.
    error = place.refused(place.trained, "--cost-miss", "1", "--cost-false-alarm", "20", *flags)
    assert "instance: normal and anomalous overlap" in error


def test_labels_upside_down_are_told_and_not_calibrated_on(place: Place) -> None:
    rows = [(key, "test", str(int(not bad))) for key, bad in place.truths().items()]
    flags = ["--labels", place.labels(rows), place.log]
    assert re.search(
        r"FATAL instance: labels or scores upside down: .* AUC-ROC 0\.[01]\d+", place.told(place.trained, *flags)
    )
    error = place.refused(place.trained, "--cost-miss", "1", "--cost-false-alarm", "20", *flags)
    assert "instance: labels or scores upside down" in error


def test_a_share_of_flipped_labels_is_listed(place: Place) -> None:
    truth = place.truths()
    flipped = {key for bad in (True, False) for key in [key for key in truth if truth[key] is bad][2:8]}
    rows = [(key, "test", str(int(bad != (key in flipped)))) for key, bad in truth.items()]
    out = place.told(place.trained, "--labels", place.labels(rows), place.log)
    assert "WARNING instance: labels that look flipped" in out
    listed = set(re.findall(r"^    (\S+): labelled", out, re.MULTILINE))
    assert len(listed & flipped) >= 6
    assert len(listed - flipped) <= 2


def test_sessions_of_training_are_told(place: Place) -> None:
    out = place.told(place.trained, "--labels", LABELS, "--select", "split=train", NOVA34)
    learned = [each for each in place.recording.learned if each.kind == "instance"]
    assert f"FATAL sessions of training: {len(learned)} of the 230 sessions are train sessions" in out
    assert f"and {len(learned) - 10} more" in out


def test_a_group_on_both_sides_is_told_and_like_content_is_not(place: Place) -> None:
    whole = [each for split in ("train", "test") for each in place.recording.split(split) if not each.late]
    rows = [
        (
            each.key,
            place.recording.labels.rows[each.key]["split"],
            str(int(bool(place.recording.labels.anomalous(each, "failed")))),
        )
        for each in whole
    ]
    # Runs of seven sessions: the one on the border of the splits has sessions on either side.
    border = len([row for row in rows if row[1] == "train"]) // 7
    labels = place.labels([(*row, f"run-{i // 7}") for i, row in enumerate(rows)], "run")
    flags = ["--labels", labels, "--select", "split=test", NOVA34]
    out = place.told(place.trained, *flags, "--group-column", "run")
    assert "WARNING one group on both sides: 1 groups have sessions" in out
    assert f"    run=run-{border}: split=test and " in out
    assert "Healthy" in place.told(place.trained, *flags, code=0)
    # The same text in training and here is a figure of the report, no finding.
    alike = [each for each in place.recording.sessions if each.kind == "request" and not each.late]
    used = {"train": np.array([each.fingerprint() for each in alike[::2]]), "validation": np.empty(0)}
    leakage = find_leakage(alike[1::2], alike, used, None, None)
    assert 0 < leakage.alike < leakage.others == len(alike[1::2])
    assert not leakage.known["train"]
    assert not leakage.groups


def test_an_explicit_session_on_both_sides_is_told(recording: Recording) -> None:
    mine = [each for each in recording.split("test") if not each.late][:4]
    for each in mine:
        each.group = "run-7"
    try:
        used = {"train": np.array([mine[0].fingerprint()])}
        leakage = find_leakage(mine[1:], mine, used, None, None)
        assert leakage.groups == {"run-7": "not trained on and trained on"}
        labels = Labels("labels.csv", COLUMNS, {each.key: {"split": "val"} for each in mine[1:]})
        assert find_leakage(mine[1:], mine, used, labels, None).groups == {"run-7": "split=val and trained on"}
        labels = Labels("labels.csv", COLUMNS, {each.key: {"split": "train"} for each in mine})
        assert find_leakage(mine[1:], mine, used, labels, None).groups == {}
    finally:
        for each in mine:
            each.group = None


def test_ordinary_sessions_have_no_odd_losses_and_no_line_in_common(trained: Path, recording: Recording) -> None:
    bundle = load_bundle(trained, calibrated=False)
    scorer = bundle.scorer(torch.device("cpu"))
    sessions = [each for each in recording.split("val") if not each.late][:30]
    scores = scorer.score(sessions)
    assert loss_findings(LossProfile.of(sessions, scores, scorer.tokenizer.vocabulary_size)) == []
    cause = common_cause(sessions, scores, scorer.tokenizer)
    assert cause.sessions == 30
    assert cause.agreeing < 30
    assert not cause.alike


def test_a_damaged_file_is_a_mistake_and_no_diagnosis(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], log_of_test: str
) -> None:
    bundle = shutil.copytree(trained, tmp_path / "bundle")
    (bundle / "model.safetensors").write_bytes(b"cut")
    assert main(["diagnose", "--bundle", str(bundle), log_of_test]) == 2
    assert "altered or damaged" in capsys.readouterr().err
    assert main(["diagnose", "--bundle", str(trained), "--group-column", "run", log_of_test]) == 2
    assert "give labels too" in capsys.readouterr().err


def test_its_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "loggpt-calibrate diagnose --bundle bundle --held-out /var/log/nova/" in text
    assert all(len(line) <= 120 for line in text.split("positional arguments")[0].splitlines())
