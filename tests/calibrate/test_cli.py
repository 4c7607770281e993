"""`loggpt-calibrate` as its user runs it: real logs, real (tiny) GPTs."""

from __future__ import annotations

import csv
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest

from calibrate.cli import main
from calibrate.settings import CalibrateSettings, EvaluateSettings
from loggpt_stream.history.corpus import read_corpus
from loggpt_stream.history.labels import read_labels
from loggpt_stream.model.bundle import load_bundle, save_calibrated
from loggpt_stream.model.calibration import Calibration, Judge, KindCalibration
from loggpt_stream.model.statistics import COMBINATIONS, COMBINED, STATISTICS, Scale
from loggpt_stream.settings import load
from tests.calibrate.conftest import LABELS, NOVA34

if TYPE_CHECKING:
    from tests.calibrate.conftest import Recording

pytestmark = pytest.mark.slow  # each test scores the recording anew

REPO = Path(__file__).parent.parent.parent
VAL = ["--labels", LABELS, "--select", "split=val"]
TEST = ["--labels", LABELS, "--select", "split=test"]
ALL_NORMAL = ["--contamination", "0"]
PLAIN_FIGURES = {"loss_distribution.png", "roc_curve.png", "precision_recall_curve.png"}


@pytest.fixture(scope="session")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle calibrated with the labels of the validation split; its report stands beside it."""
    out = tmp_path_factory.mktemp("calibrated") / "bundle"
    assert main(["--bundle", str(trained), "--out", str(out), *VAL, NOVA34]) == 0
    return out


@pytest.fixture(scope="session")
def evaluated(calibrated: Path, tmp_path_factory: pytest.TempPathFactory, log_of_test: str) -> Path:
    report = tmp_path_factory.mktemp("evaluated") / "report"
    assert main(["evaluate", "--bundle", str(calibrated), "--report", str(report), *TEST, log_of_test]) == 0
    return report


def report_of(bundle: Path) -> Path:
    return bundle.with_name(bundle.name + "-calibration")


def sweep_of(report: Path) -> list[dict[str, str]]:
    with (report / "threshold_sweep.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_labels_give_a_calibrated_bundle_and_a_whole_report(
    calibrated: Path, trained: Path, recording: Recording
) -> None:
    bundle = load_bundle(calibrated)
    assert bundle.calibration is not None
    assert set(bundle.calibration.kinds) == {"instance"}
    kind = bundle.calibration.kinds["instance"]
    assert kind.basis == "labels_f1"
    assert kind.anomalous_sessions == 17
    assert len(kind.normal_scores) == 75
    assert bundle.model_fingerprint == load_bundle(trained, calibrated=False).model_fingerprint
    used = {each.fingerprint() for each in recording.split("val") if not each.late}
    assert set(bundle.used_sessions["calibration"].tolist()) == used
    report = report_of(calibrated)
    texts = {"threshold_sweep.csv", "optimal_threshold.txt", "calibration_report.md"}
    assert {file.name for file in report.iterdir()} == PLAIN_FIGURES | texts
    for name in PLAIN_FIGURES:
        assert min(png_size(report / name)) > 400
    assert f"instance {kind.threshold!r} {kind.combination} labels_f1" in (report / "optimal_threshold.txt").read_text()


def test_the_report_tells_an_operator_what_was_done_and_what_to_expect(calibrated: Path, recording: Recording) -> None:
    text = (report_of(calibrated) / "calibration_report.md").read_text()
    assert "**Scored:** 92 sessions" in text
    left_out = {int(number) for number in re.findall(r"(\d+) (?:cut off|not selected|late)", text)}
    assert sum(left_out) == len(recording.sessions) - 92
    assert "highest expected F1" in text
    assert "sessions a day" in text
    assert "extrapolated from" in text
    for statistic in {*COMBINATIONS, *STATISTICS} - {"end_loss"}:  # without a tail pass there is no end loss
        assert statistic in text
    assert text.count("Most surprising line") == 5
    # The raw line, as an operator would search for it: with its own time, request id and instance.
    assert "       2026-11-23 14:" in text
    assert "req-" in text


def test_the_sweep_agrees_with_the_bundle(calibrated: Path) -> None:
    calibration = load_bundle(calibrated).calibration
    assert calibration is not None
    kind = calibration.kinds["instance"]
    rows = sweep_of(report_of(calibrated))
    columns = ["kind", "threshold", "tp", "fp", "tn", "fn", "precision", "recall", "f1", "false_alarm_rate"]
    assert list(rows[0]) == columns
    thresholds = [float(row["threshold"]) for row in rows]
    assert set(np.round(np.arange(1.0, 20.05, 0.1), 1)) <= set(thresholds)
    assert set(kind.normal_scores) <= set(thresholds)
    assert thresholds == sorted(thresholds)
    assert {int(row["tp"]) + int(row["fn"]) for row in rows} == {17}
    assert {int(row["fp"]) + int(row["tn"]) for row in rows} == {75}
    # The chosen threshold lies in a gap, so it does what the greatest threshold of the sweep below it does.
    below = max(
        (row for row in rows if float(row["threshold"]) <= kind.threshold), key=lambda row: float(row["threshold"])
    )
    assert float(below["f1"]) > max(float(row["f1"]) for row in rows) - 0.1
    assert kind.false_alarm_rate == pytest.approx((1 + int(below["fp"])) / 76)
    for row in rows:
        flagged = int(row["tp"]) + int(row["fp"])
        assert float(row["precision"]) == pytest.approx(int(row["tp"]) / flagged if flagged else 0.0, abs=1e-6)
        assert float(row["false_alarm_rate"]) == pytest.approx(int(row["fp"]) / 75, abs=1e-6)


def test_held_out_uses_exactly_the_sessions_that_the_trainer_held_out(
    bundle: Path, recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = report_of(bundle) / "roc_curve.png"
    stale.parent.mkdir()
    stale.write_bytes(b"of an earlier calibration, with labels")
    assert main(["--bundle", str(bundle), "--held-out", *ALL_NORMAL, "--false-alarm-rate", "0.05", NOVA34]) == 0
    printed = capsys.readouterr().out
    assert "held out" in printed
    assert "never learned from them" in printed
    after = load_bundle(bundle)
    assert after.calibration is not None
    assert set(after.calibration.kinds) == {"instance", "request"}
    expected = {each.fingerprint() for each in recording.held_out if not each.late}
    assert set(after.used_sessions["calibration"].tolist()) == expected
    for kind in after.calibration.kinds.values():
        assert kind.basis == "conformal"
        assert kind.combination == COMBINED
        above = sum(score > kind.threshold for score in kind.normal_scores)
        assert above / len(kind.normal_scores) <= 0.05
        assert kind.false_alarm_rate <= 0.05
    names = {file.name for file in report_of(bundle).iterdir()}
    # The primary kind has the plain name, the other its own ending; and no curve that needs labels.
    assert {"loss_distribution.png", "loss_distribution-instance.png"} <= names
    assert not any(name.startswith(("roc_curve", "precision_recall_curve")) for name in names)
    text = (report_of(bundle) / "calibration_report.md").read_text()
    assert "no ROC and no precision-recall curve" in text
    assert {row["tp"] for row in sweep_of(report_of(bundle))} == {""}


def test_a_rate_finer_than_the_sessions_support_is_told(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle), "--held-out", *ALL_NORMAL, "--kinds", "instance", NOVA34]) == 0
    said = "92 sessions guarantee no finer rate than 1/(92+1) = 0.01075; asked 0.01"
    assert said in capsys.readouterr().out
    assert said in (report_of(bundle) / "calibration_report.md").read_text()
    calibration = load_bundle(bundle).calibration
    assert calibration is not None
    assert calibration.kinds["instance"].basis == "tail_model"
    assert calibration.kinds["instance"].false_alarm_rate == 0.01


def test_how_far_so_few_sessions_can_be_from_the_promised_rate_is_told_and_kept(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--bundle", str(bundle), "--held-out", "--kinds", "instance", "--false-alarm-rate", "0.05"]
    for more in ([], ALL_NORMAL):
        assert main([*flags, *more, NOVA34]) == 0
        calibration = load_bundle(bundle).calibration
        assert calibration is not None
        low, high = calibration.kinds["instance"].false_alarm_interval or (0.0, 0.0)
        assert 0 < low < 0.05 < high < 0.2
        said = f"{low:.2%} to {high:.2%} in 95 of 100 calibrations"
        assert said in capsys.readouterr().out
        assert said in (report_of(bundle) / "calibration_report.md").read_text()


def test_history_that_nobody_labelled_is_not_taken_as_all_normal(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A fifth of what the trainer held out here are failures.
    flags = ["--bundle", str(bundle), "--held-out", "--kinds", "instance", "--false-alarm-rate", "0.05", NOVA34]
    assert main([*flags, *ALL_NORMAL]) == 0
    naive = load_bundle(bundle).calibration
    assert main([*flags, "--contamination", "0.2"]) == 0
    robust = load_bundle(bundle).calibration
    assert "the highest 20% counting only as high" in capsys.readouterr().out
    assert naive is not None
    assert robust is not None
    assert robust.kinds["instance"].basis == "robust_tail"
    assert robust.kinds["instance"].threshold < naive.kinds["instance"].threshold


def test_a_rate_may_be_asked_for_in_alerts_a_day(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 459 instances and the requests beside them in 28 minutes are some 50,000 sessions a day.
    assert main(["--bundle", str(bundle), "--held-out", "--alerts-per-day", "2500", NOVA34]) == 0
    calibration = load_bundle(bundle).calibration
    assert calibration is not None
    rates = {kind.false_alarm_rate for kind in calibration.kinds.values()}
    assert len(rates) == 1
    assert 0.02 < rates.pop() < 0.1
    assert main(["--bundle", str(bundle), "--held-out", "--alerts-per-day", "1e6", NOVA34]) == 2
    assert "Ask for fewer" in capsys.readouterr().err
    flags = ["--alerts-per-day", "5", "--false-alarm-rate", "0.1"]
    assert main(["--bundle", str(bundle), "--held-out", *flags, NOVA34]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_sessions_of_training_are_refused_and_the_bundle_stays_as_it_was(
    bundle: Path, capsys: pytest.CaptureFixture[str], recording: Recording
) -> None:
    before = load_bundle(bundle, calibrated=False).fingerprint
    assert main(["--bundle", str(bundle), "--labels", LABELS, "--select", "split=train", NOVA34]) == 2
    error = capsys.readouterr().err
    learned = [each for each in recording.learned if each.kind == "instance"]
    assert f"{len(learned)} of the 230 sessions are train sessions" in error
    assert "instance " in error
    assert "--held-out" in error
    assert load_bundle(bundle, calibrated=False).fingerprint == before
    assert not report_of(bundle).exists()


@pytest.mark.parametrize(("split", "role"), [("train", "train"), ("val", "validation")])
def test_evaluation_refuses_sessions_that_the_bundle_has_seen(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str, role: str
) -> None:
    flags = ["--labels", LABELS, "--select", f"split={split}", "--report", str(tmp_path / "report")]
    assert main(["evaluate", "--bundle", str(calibrated), *flags, NOVA34]) == 2
    assert f"are {role} sessions of this bundle" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_evaluation_refuses_sessions_of_calibration(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], log_of_test: str
) -> None:
    # Calibrated on the test split, which neither training nor validation has seen: then it is no test any more.
    assert main(["--bundle", str(bundle), *TEST, log_of_test]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--bundle", str(bundle), "--report", str(tmp_path / "report"), *TEST, log_of_test]) == 2
    assert "137 of the 137 sessions are calibration sessions" in capsys.readouterr().err


def test_a_model_that_gives_every_session_one_score_gets_no_threshold(
    blind: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The old pathology: all alerts had the identical loss.
    flags = ["--bundle", str(blind), "--out", str(tmp_path / "out")]
    assert main([*flags, "--held-out", NOVA34]) == 2
    error = capsys.readouterr().err
    assert "have the same language_model score" in error
    assert "nats (for example" in error
    assert not (tmp_path / "out").exists()


def test_evaluation_measures_what_the_verdicts_say(
    evaluated: Path, calibrated: Path, recording: Recording, log_of_test: str
) -> None:
    values = orjson.loads((evaluated / "evaluation.json").read_bytes())
    metrics = values["kinds"]["instance"]["metrics"]
    bundle = load_bundle(calibrated)
    assert bundle.calibration is not None
    from loggpt_stream.model.gpt import choose_device  # noqa: PLC0415 - shows what it is computed with

    keys = {each.key for each in recording.split("test") if not each.late}
    corpus = read_corpus([log_of_test], bundle.preprocessing.session_rules, bundle.preprocessing.mask_rules)
    sessions = [each for each in corpus.sessions if each.key in keys and each.kind == "instance" and not each.late]
    scores = bundle.scorer(choose_device("cpu")).score(sessions)
    judge = Judge(bundle.calibration)
    verdicts = [judge.judge("instance", score.statistics).anomalous for score in scores]
    truth = [bool(recording.labels.anomalous(each, "failed")) for each in sessions]
    pairs = list(zip(verdicts, truth, strict=True))
    assert metrics["tp"] == pairs.count((True, True))
    assert metrics["fp"] == pairs.count((True, False))
    assert metrics["fn"] == pairs.count((False, True))
    assert metrics["tn"] == pairs.count((False, False)) > 0
    assert (metrics["sessions"], metrics["anomalous"]) == (137, 20)
    for name in ("auc_roc", "auc_pr", "f1"):
        low, high = metrics["intervals"][name]
        assert low <= metrics[name] <= high
    # The tiny model has learned something: it orders sessions far better than chance does.
    assert metrics["auc_roc"] > 0.8


def test_evaluation_stands_beside_the_simple_detectors(evaluated: Path) -> None:
    values = orjson.loads((evaluated / "evaluation.json").read_bytes())["kinds"]["instance"]
    errors = values["baselines"]["ERROR/CRITICAL lines"]
    assert errors["auc_roc"] == pytest.approx(0.918, abs=0.03)
    assert errors["rule"] == "any such line"
    assert 0 < errors["f1"] < 1
    assert math.isfinite(values["baselines"]["unusual length"]["auc_pr"])
    assert values["baselines"]["flag everything"]["f1"] == pytest.approx(2 * 20 / (137 + 20))
    rate = values["false_alarm_rate"]
    assert rate["promised_interval"][0] < rate["promised"] < rate["promised_interval"][1]
    assert rate["observed_interval"][0] <= rate["observed"] <= rate["observed_interval"][1]
    assert values["largest_share_with_one_score"]["share"] < 0.05
    width, height = png_size(evaluated / "roc_curve_final.png")
    assert width > 1.4 * height  # two plots side by side


def test_evaluating_twice_gives_the_same_figures(
    evaluated: Path, calibrated: Path, tmp_path: Path, log_of_test: str
) -> None:
    again = tmp_path / "again"
    assert main(["evaluate", "--bundle", str(calibrated), "--report", str(again), *TEST, log_of_test]) == 0
    assert (again / "evaluation.json").read_bytes() == (evaluated / "evaluation.json").read_bytes()


def test_a_matrix_without_true_negatives_is_told_loudly(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], log_of_test: str
) -> None:
    # The old pathology: every normal session flagged, reported as recall 1.0 and a fine F1.
    good = load_bundle(calibrated)
    assert good.calibration is not None
    kind = good.calibration.kinds["instance"]
    flag_all = KindCalibration(
        combination=kind.combination,
        threshold=-1.0,
        basis=kind.basis,
        false_alarm_rate=kind.false_alarm_rate,
        scales=kind.scales,
        normal_scores=kind.normal_scores,
    )
    bad = tmp_path / "bad"
    save_calibrated(
        good,
        bad,
        calibration=Calibration({"instance": flag_all}),
        calibration_sessions=good.used_sessions["calibration"],
    )
    assert main(["evaluate", "--bundle", str(bad), *TEST, log_of_test]) == 0
    assert "NO TRUE NEGATIVE: all 117 normal sessions were flagged" in capsys.readouterr().out
    report = tmp_path / "bad-evaluation"
    assert "NO TRUE NEGATIVE" in (report / "evaluation_report.md").read_text()
    values = orjson.loads((report / "evaluation.json").read_bytes())["kinds"]["instance"]
    assert values["metrics"]["tn"] == 0
    # It also flags more normal sessions than calibration promised.
    assert any("MORE FALSE ALARMS THAN PROMISED" in warning for warning in values["warnings"])


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ((0.001, 0.9), "That may be chance: with 75 normal sessions the rate is 0.10% to 90.00% in 95 of 100"),
        ((0.001, 0.002), "Normal behaviour has probably changed"),
        (None, "Normal behaviour has probably changed"),
    ],
    ids=["chance", "changed", "unknown"],
)
def test_more_false_alarms_than_promised_are_put_down_to_chance_only_where_so_few_sessions_allow_it(
    calibrated: Path, tmp_path: Path, log_of_test: str, interval: tuple[float, float] | None, says: str
) -> None:
    good = load_bundle(calibrated)
    assert good.calibration is not None
    kind = good.calibration.kinds["instance"]
    low = replace(
        kind,
        threshold=float(np.quantile(kind.normal_scores, 0.5)),
        false_alarm_rate=0.001,
        false_alarm_interval=interval,
    )
    bundle = tmp_path / "low"
    used = good.used_sessions["calibration"]
    save_calibrated(good, bundle, calibration=Calibration({"instance": low}), calibration_sessions=used)
    assert main(["evaluate", "--bundle", str(bundle), *TEST, log_of_test]) == 0
    values = orjson.loads((tmp_path / "low-evaluation" / "evaluation.json").read_bytes())["kinds"]["instance"]
    (warning,) = (each for each in values["warnings"] if "MORE FALSE ALARMS THAN PROMISED" in each)
    assert says in warning


def test_evaluation_tells_that_many_sessions_share_one_score(
    blind: Path, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], log_of_test: str
) -> None:
    good = load_bundle(calibrated).calibration
    assert good is not None
    bad = tmp_path / "bad"
    # By the loss of one token, which a model that has learned nothing finds as likely as any other.
    kind = good.kinds["instance"]
    of_one_token = {"digest_end_loss": Scale(0.0, 0.0, 1.0)}
    blindly = Calibration({"instance": replace(kind, combination="digest_end_loss", scales=of_one_token)})
    prints = np.array([1], dtype=np.int64)
    save_calibrated(load_bundle(blind, calibrated=False), bad, calibration=blindly, calibration_sessions=prints)
    assert main(["evaluate", "--bundle", str(bad), *TEST, log_of_test]) == 0
    assert "ONE SCORE" in capsys.readouterr().out


def test_sessions_without_a_label_are_left_out_and_counted(calibrated: Path, tmp_path: Path, log_of_test: str) -> None:
    labels = read_labels(LABELS)
    kept = [row for row in labels.rows.values() if row["split"] == "test"]
    for row in kept[:7]:
        row["failed"] = ""
    partly = tmp_path / "labels.csv"
    with partly.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, labels.columns)
        writer.writeheader()
        writer.writerows(kept)
    flags = ["--labels", str(partly), "--select", "split=test", "--report", str(tmp_path / "report")]
    assert main(["evaluate", "--bundle", str(calibrated), *flags, log_of_test]) == 0
    values = orjson.loads((tmp_path / "report" / "evaluation.json").read_bytes())["kinds"]["instance"]
    assert (values["metrics"]["sessions"], values["unlabelled_sessions"]) == (130, 7)


def test_an_altered_bundle_is_refused(
    bundle: Path, calibrated: Path, capsys: pytest.CaptureFixture[str], log_of_test: str
) -> None:
    weights = bundle / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main(["--bundle", str(bundle), "--held-out", NOVA34]) == 2
    assert "altered or damaged" in capsys.readouterr().err
    shutil.copytree(calibrated, bundle, dirs_exist_ok=True)
    manifest = bundle / "loggpt.json"
    manifest.write_text(manifest.read_text().replace('"labels_f1"', '"conformal"'))
    assert main(["evaluate", "--bundle", str(bundle), *TEST, log_of_test]) == 2
    assert "altered" in capsys.readouterr().err


def test_evaluation_needs_a_calibrated_bundle(
    trained: Path, capsys: pytest.CaptureFixture[str], log_of_test: str
) -> None:
    assert main(["evaluate", "--bundle", str(trained), *TEST, log_of_test]) == 2
    assert "not calibrated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([NOVA34, "--select", "split=val"], "give labels too"),
        ([NOVA34, "--cost-miss", "5"], "give labels too"),
        ([NOVA34, "--false-alarm-rate", "1.5"], "false_alarm_rate = '1.5'"),
        ([], "nothing to read"),
        ([NOVA34, "--labels", LABELS, "--anomaly-column", "broken", "--select", "split=val"], "no column 'broken'"),
        ([NOVA34, "--labels", LABELS, "--select", "split=vla"], "no session to score"),
        ([NOVA34, "--out", "there", "--report", "there/report"], "must not be inside the bundle"),
        (["--kinds", "server", NOVA34], "kinds"),
    ],
)
def test_wrong_settings_are_explained(
    trained: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert main(["--bundle", str(trained), *flags]) == 2
    assert said in capsys.readouterr().err


def test_held_out_asks_for_the_logs_of_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.log"
    uuid = "11111111-2222-3333-4444-555555555555"
    other.write_text(f"2026-11-23 14:24:05.308 7120 INFO nova.compute.manager [-] [instance: {uuid}] Took 1.00 s\n")
    assert main(["--bundle", str(trained), "--held-out", str(other)]) == 2
    assert "the same log files that the bundle was trained from" in capsys.readouterr().err


def test_the_example_configuration_loads_and_says_the_defaults() -> None:
    file = REPO / "configs" / "calibrate.yaml"
    settings = load(CalibrateSettings, ["--config", str(file), "x.log"], prog="x", description="")
    defaults = load(CalibrateSettings, ["x.log"], prog="x", description="")
    assert settings.model_dump(exclude={"config"}) == defaults.model_dump(exclude={"config"})
    text = file.read_text()
    fields = CalibrateSettings.model_fields
    for name in {field.alias or name for name, field in fields.items()} - {"config", "inputs"}:
        assert f"\n{name}:" in text or f"\n# {name}:" in text, f"{name} is not in the example"


@pytest.mark.parametrize("argv", [["--help"], ["evaluate", "--help"], ["calibrate", "--help"], []])
def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "loggpt-calibrate evaluate --bundle" in text
    if "evaluate" not in argv:
        assert "--held-out /var/log/nova/" in text
        assert "--cost-miss 50" in text
    for line in text.split("positional arguments")[0].splitlines():
        assert len(line) <= 120


def test_evaluation_has_its_own_report_place() -> None:
    settings = load(EvaluateSettings, ["--labels", "l.csv", "--bundle", "there/b", "x"], prog="x", description="")
    assert settings.report_directory == Path("there/b-evaluation").absolute()
