"""`loggpt-train` as its users run it."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
import yaml

from loggpt_stream.model.bundle import Bundle, load_bundle
from tests.trainer.conftest import REPO, TINY
from trainer.cli import main
from trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.trainer.conftest import Start

pytestmark = pytest.mark.slow  # it trains, in processes of its own


@pytest.fixture(scope="module")
def trained(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("trained") / "bundle"
    assert main([*TINY, "--out", str(out), str(log)]) == 0
    return load_bundle(out, calibrated=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return " ".join(told.split())


def test_the_bundle_is_that_of_the_best_epoch_and_states_what_it_learned(
    trained: Bundle, sessions: list[object]
) -> None:
    training = trained.training
    curve = [epoch["validation_loss"] for epoch in training["epochs"]]
    assert len(curve) == 3
    assert training["best_epoch"] == 1 + int(np.argmin(curve))
    assert training["seed"] == 42
    assert trained.preprocessing.max_line_tokens == 16
    used = trained.used_sessions
    assert len(used["train"]) > 3 * len(used["validation"]) > 0
    assert not set(used["train"].tolist()) & set(used["validation"].tolist())
    assert len(used["train"]) + len(used["validation"]) <= len(sessions)


def test_the_sealed_bundle_tells_no_time_and_no_path(trained: Bundle) -> None:
    sealed = (trained.path / "loggpt.json").read_text()
    assert "seconds" not in sealed.replace("seconds to destroy", "")
    assert str(trained.path.parent) not in sealed


def test_the_report_stands_beside_the_bundle(trained: Bundle) -> None:
    report = trained.path.with_name("bundle-report")
    assert sorted(file.name for file in report.iterdir()) == ["learning_curve.png", "training_report.json"]
    assert (report / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    told = orjson.loads((report / "training_report.json").read_bytes())
    assert told["fingerprint"] == trained.fingerprint
    assert len(told["epochs"]) == 3
    assert all(epoch["seconds"] > 0 and epoch["tokens_per_s"] > 0 for epoch in told["epochs"])
    assert told["counts"]["records"] == 4_000
    assert told["settings"]["training"]["epochs"] == 3


def test_no_checkpoint_is_left(trained: Bundle) -> None:
    assert not trained.path.with_name("bundle.checkpoint").exists()


def test_the_same_seed_gives_the_same_bundle_in_another_process_and_another_seed_another(
    trained: Bundle, log: Path, tmp_path: Path, start: Start
) -> None:
    again = start(*TINY, "--out", str(tmp_path / "again"), str(log))
    assert main([*TINY, "--seed=43", "--out", str(tmp_path / "other"), str(log)]) == 0
    told, _ = again.communicate(timeout=120)
    assert again.returncode == 0, told
    assert load_bundle(tmp_path / "again", calibrated=False).fingerprint == trained.fingerprint
    other = load_bundle(tmp_path / "other", calibrated=False)
    assert other.model_fingerprint != trained.model_fingerprint


def test_after_a_kill_the_same_command_goes_on_and_ends_with_the_same_bundle(
    trained: Bundle, log: Path, tmp_path: Path, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    command = (*TINY, "--out", str(tmp_path / "bundle"), str(log))
    checkpoint = tmp_path / "bundle.checkpoint" / "state.safetensors"
    killed = start(*command)
    while not checkpoint.exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "bundle").exists()
    assert main(command) == 0
    assert re.search(r"going on after epoch [12], from", capfd.readouterr().err)
    assert load_bundle(tmp_path / "bundle", calibrated=False).fingerprint == trained.fingerprint
    assert not checkpoint.exists()


def test_no_resume_starts_afresh(log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "bundle.checkpoint"
    checkpoint.mkdir()
    (checkpoint / "state.safetensors").write_bytes(b"damaged")
    command = (*TINY, "--training.epochs=1", "--out", str(tmp_path / "bundle"), str(log))
    assert "start afresh with --no-resume" in refused(capfd, *command)
    assert main([*command, "--no-resume"]) == 0


def test_two_processes_learn_what_one_learns(log: Path, tmp_path: Path, start: Start) -> None:
    # Without dropout only rounding differs: the processes share each batch and add up their gradients.
    command = (*TINY, "--model.dropout=0", str(log))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainer.cli")
    two = start(*command, "--out", str(tmp_path / "two"), launcher=launcher)
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    told, _ = two.communicate(timeout=180)
    assert two.returncode == 0, told
    assert told.count("epoch   1:") == 1
    curves = [
        [epoch["validation_loss"] for epoch in load_bundle(tmp_path / name, calibrated=False).training["epochs"]]
        for name in ("one", "two")
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert load_bundle(tmp_path / "two", calibrated=False).training["processes"] == 2


def test_where_the_first_of_two_processes_finds_nothing_both_end_with_one_message(tmp_path: Path, start: Start) -> None:
    (tmp_path / "empty.log").write_text("")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainer.cli")
    two = start(*TINY, str(tmp_path / "empty.log"), launcher=launcher)
    told, _ = two.communicate(timeout=120)
    assert two.returncode != 0
    assert told.count("error: no session in 0 records") == 1
    assert "Connection closed" not in told


def test_the_summary_says_what_was_read_what_looks_abnormal_and_what_comes_next(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noisy = tmp_path / "noisy.log"
    noisy.write_bytes(log.read_bytes() + b"\x00\xff\xfe\xfd" * 40 + b"\n")
    assert main([*TINY, "--training.epochs=1", "--out", str(tmp_path / "bundle"), str(noisy)]) == 0
    told = capfd.readouterr().err
    assert "read 4,001 records" in told
    assert re.search(r"not decoded: 1 \w+", told)
    assert re.search(r"[\d,]+ lines without a session key", told)
    assert re.search(r"instance sessions: \d+ to learn from, \d+ held out", told)
    assert re.search(r"[\d,]+ lines to learn from, \d+ distinct once masked; vocabulary \d+, [\d.]+ tokens/line", told)
    assert re.search(r"\d+ of \d+ sessions learned from \([\d.]+%\) look abnormal", told)
    assert f"loggpt-calibrate --bundle {tmp_path / 'bundle'}" in told


def test_a_place_that_is_no_bundle_is_refused_before_training(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letters").write_text("mine")
    assert "exists and is not a bundle" in refused(capsys, *TINY, "--out", str(tmp_path), str(log))
    assert "exists and is not a bundle" in refused(capsys, *TINY, "--out", str(tmp_path / "letters"), str(log))
    assert (tmp_path / "letters").read_text() == "mine"


def test_an_older_bundle_is_replaced(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    command = (*TINY, "--training.epochs=1", "--out", str(out), str(log))
    assert main(command) == 0
    old = load_bundle(out, calibrated=False).fingerprint
    assert main([*command, "--seed=7"]) == 0
    assert load_bundle(out, calibrated=False).fingerprint != old


def test_user_mistakes_are_told_in_a_sentence(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", str(tmp_path / "bundle"))
    assert "no such file or directory" in refused(capsys, *out, str(tmp_path / "away.log"))
    assert "did you mean epochs?" in refused_yaml(capsys, tmp_path, "training: {epoch: 3}")
    assert "nothing to read" in refused(capsys, *out)
    assert "too few" in refused(capsys, *out, "--sessions.key-order=explicit", "--sessions.unkeyed=window", str(log))
    labels = tmp_path / "labels.csv"
    labels.write_text("id,failed\n")
    assert "no column 'split'" in refused(capsys, *out, "--labels", str(labels), "--select", "split=train", str(log))


def refused_yaml(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> str:
    (tmp_path / "trainer.yaml").write_text(text)
    return refused(capsys, "--config", str(tmp_path / "trainer.yaml"), "x.log")


@pytest.mark.parametrize("device", ["cuda:99", "tpu9"])
def test_a_device_that_is_not_there_is_refused(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    assert f"device {device!r}" in refused(capsys, "--device", device, "--out", str(tmp_path / "b"), str(log)).replace(
        "device cuda:99:", "device 'cuda:99':"
    )


def test_help_teaches_the_purpose_examples_and_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.count("  loggpt-train ") >= 3
    for word in (
        "loggpt-calibrate",
        "torchrun",
        "configs/trainer.yaml",
        "--training.learning-rate",
        "--from",
        "--search-minutes",
    ):
        assert word in told


def test_the_example_configuration_is_whole_and_shows_the_defaults() -> None:
    text = (REPO / "configs" / "trainer.yaml").read_text()
    defaults = TrainerSettings(inputs=["x"])
    assert TrainerSettings.model_validate({"inputs": ["x"], **yaml.safe_load(text)}) == defaults
    # Uncommented, it names every key there is.
    keys = set(re.findall(r"^(?:# )?(\w+):", text, re.MULTILINE))
    wanted = {field.alias or name for name, field in TrainerSettings.model_fields.items()} - {"config"}
    assert keys == wanted
    for section in ("kafka", "sessions", "tokenizer", "model", "training"):
        block = re.search(rf"^{section}:.*\n((?:  .*\n)+)", text, re.MULTILINE)
        assert block is not None
        named = set(re.findall(r"^  (?:# )?(\w+):", block[1], re.MULTILINE))
        assert named == set(type(getattr(defaults, section)).model_fields)


def test_the_example_configuration_runs(log: Path, tmp_path: Path) -> None:
    command = ("--config", str(REPO / "configs" / "trainer.yaml"), *TINY, "--training.epochs=1")
    assert main([*command, "--out", str(tmp_path / "bundle"), str(log)]) == 0
