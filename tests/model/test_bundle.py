"""The bundle: what Hugging Face tools open, verified at load, refused when anything is off."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from loggpt_stream.errors import BundleError
from loggpt_stream.model.bundle import load_bundle, save_bundle, save_calibrated
from loggpt_stream.model.calibration import Calibration, Judge, KindCalibration
from loggpt_stream.model.drift_mode import DriftMode
from loggpt_stream.model.gpt import new_model
from loggpt_stream.model.manifest import MANIFEST
from loggpt_stream.model.shape import ModelShape
from loggpt_stream.model.statistics import LENGTH, Scale
from testing.tiny_bundle import nova34, tiny_bundle, untrained_parts
from trainer.material import count_lines

if TYPE_CHECKING:
    from loggpt_stream.model.bundle import Bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("made") / "bundle", steps=3)


@pytest.fixture
def copy(made: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.path, tmp_path / "copy"))


def uncalibrated(path: Path, seed: int = 1) -> Bundle:
    torch.manual_seed(seed)
    tokenizer, preprocessing = untrained_parts(10)
    model = new_model(
        ModelShape(layers=1, width=16, heads=1, context_tokens=32),
        vocabulary_size=tokenizer.vocabulary_size,
        end_id=tokenizer.end_id,
    )
    used = {"train": np.array([3, 1, 2])}
    return save_bundle(
        path,
        model=model,
        tokenizer=tokenizer.tokenizer,
        preprocessing=preprocessing,
        line_frequencies=count_lines(nova34().sessions[:10]),
        training={"seed": seed},
        used_sessions=used,
    )


def test_hugging_face_tools_open_it_and_agree(made: Bundle) -> None:
    model = AutoModelForCausalLM.from_pretrained(made.path)
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    ours = made.tokenizer()
    assert AutoConfig.from_pretrained(made.path).model_type == "gpt2"
    fast = PreTrainedTokenizerFast.from_pretrained(made.path)
    for line in {text for session in nova34().sessions[:80] for text in session.texts}:
        ids = ours.encode(line)
        assert tuple(tokenizer.encode(line, add_special_tokens=False)[: len(ids)]) == ids
        assert tuple(fast.encode(line, add_special_tokens=False)[: len(ids)]) == ids
    assert (fast.pad_token_id, fast.eos_token_id) == (ours.pad_id, ours.end_id)
    assert model.config.vocab_size == ours.vocabulary_size
    for name, weights in made.model().state_dict().items():
        assert torch.equal(weights, model.state_dict()[name])


def test_there_is_no_pickle_in_it(made: Bundle) -> None:
    for file in made.path.iterdir():
        assert file.suffix in (".json", ".safetensors")


def test_every_file_altered_by_a_byte_is_named_and_refused(copy: Path) -> None:
    for file in sorted(copy.iterdir()):
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(BundleError, match=file.name):
            load_bundle(copy)
        file.write_bytes(whole)
    load_bundle(copy)


def test_every_missing_file_is_named_and_refused(copy: Path) -> None:
    for file in sorted(copy.iterdir()):
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises(BundleError, match=file.name):
            load_bundle(copy)
        file.write_bytes(whole)


def test_a_threshold_edited_by_hand_is_refused(copy: Path) -> None:
    manifest = orjson.loads((copy / MANIFEST).read_bytes())
    next(iter(manifest["calibration"].values()))["threshold"] += 1
    (copy / MANIFEST).write_bytes(orjson.dumps(manifest))
    with pytest.raises(BundleError, match="altered"):
        load_bundle(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1}', "no json"])
def test_a_manifest_that_is_none_is_refused(copy: Path, text: str) -> None:
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=r"loggpt\.json|format"):
        load_bundle(copy)


def test_a_place_without_a_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="loggpt-train"):
        load_bundle(tmp_path / "nothing")


def test_an_uncalibrated_bundle_says_how_to_calibrate_it(tmp_path: Path) -> None:
    bundle = uncalibrated(tmp_path / "bundle")
    with pytest.raises(BundleError, match="loggpt-calibrate --bundle"):
        load_bundle(bundle.path)
    assert load_bundle(bundle.path, calibrated=False).calibration is None


def test_the_same_content_has_the_same_fingerprint_and_other_weights_another(tmp_path: Path) -> None:
    one, same, other = (uncalibrated(tmp_path / str(n), seed) for n, seed in enumerate((1, 1, 2)))
    assert one.fingerprint == same.fingerprint
    assert one.model_fingerprint == same.model_fingerprint
    assert one.model_fingerprint != other.model_fingerprint


def test_calibration_changes_the_fingerprint_and_not_the_models(tmp_path: Path) -> None:
    bundle = uncalibrated(tmp_path / "bundle")
    kind = KindCalibration(
        combination="end_loss",
        threshold=2.0,
        basis="labels_f1",
        false_alarm_rate=0.1,
        scales={"end_loss": Scale(0.0, 1.0, 1.0)},
        normal_scores=(0.5, 1.5),
        anomalous_sessions=3,
    )
    done = save_calibrated(
        bundle, tmp_path / "done", calibration=Calibration({"instance": kind}), calibration_sessions=np.array([9, 8])
    )
    assert done.model_fingerprint == bundle.model_fingerprint
    assert done.fingerprint != bundle.fingerprint
    assert done.calibration == Calibration({"instance": kind})
    assert done.used_sessions["train"].tolist() == [1, 2, 3]
    assert done.used_sessions["calibration"].tolist() == [8, 9]


def test_saving_never_replaces_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="not a bundle"):
        uncalibrated(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_save_that_fails_leaves_the_old_bundle_whole(made: Bundle, copy: Path) -> None:
    bundle = load_bundle(copy)
    (copy / "model.safetensors").unlink()  # copying it will fail
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        save_calibrated(bundle, copy, calibration=Calibration({}), calibration_sessions=np.array([1]))
    shutil.copy(made.path / "model.safetensors", copy)
    assert load_bundle(copy).fingerprint == made.fingerprint
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_save_that_cannot_take_its_place_puts_the_old_bundle_back(
    made: Bundle, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = Path.rename

    def full(self: Path, target: Path) -> Path:
        if Path(target) == copy and ".copy-old-" not in str(self):
            raise OSError("no space left on device")
        return renamed(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space left"):
        save_calibrated(
            load_bundle(copy), copy, calibration=Calibration({}), calibration_sessions=np.array([1], dtype=np.int64)
        )
    assert load_bundle(copy).fingerprint == made.fingerprint
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_what_was_altered_since_it_was_read_is_not_sealed_anew(copy: Path, tmp_path: Path) -> None:
    bundle = load_bundle(copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(BundleError, match=r"model\.safetensors was altered"):
        save_calibrated(bundle, tmp_path / "new", calibration=Calibration({}), calibration_sessions=np.array([1]))
    assert not (tmp_path / "new").exists()


def test_a_bundle_replaced_since_it_was_read_is_not_calibrated(tmp_path: Path) -> None:
    read = uncalibrated(tmp_path / "bundle", seed=1)
    uncalibrated(tmp_path / "bundle", seed=2)
    with pytest.raises(BundleError, match="another bundle"):
        save_calibrated(read, read.path, calibration=Calibration({}), calibration_sessions=np.array([1]))


def test_masks_and_session_rules_come_back_as_they_were(made: Bundle) -> None:
    loaded = load_bundle(made.path)
    _, preprocessing = untrained_parts()
    assert loaded.preprocessing == preprocessing
    assert loaded.masks().mask("vm 7c394555-b573-4de3-a038-789af2d1ff4d") == "vm <uuid>"
    assert loaded.training == {"seed": 42}


def test_every_file_of_a_bundle_can_be_read_by_the_daemons_user(made: Bundle) -> None:
    assert {oct(file.stat().st_mode & 0o777) for file in made.path.iterdir()} == {"0o644"}
    assert made.path.stat().st_mode & 0o777 == 0o755


def test_weights_come_back_exactly_and_score_the_same(made: Bundle) -> None:
    session = nova34().sessions[3]
    one, other = (load_bundle(made.path).scorer(torch.device("cpu")).score([session])[0] for _ in range(2))
    assert one.line_losses_L.tolist() == other.line_losses_L.tolist()
    assert one.statistics == other.statistics


def test_what_the_training_sessions_consist_of_comes_back_as_it_was(made: Bundle) -> None:
    assert load_bundle(made.path).line_frequencies() == count_lines(nova34().sessions[:60])


def test_verdicts() -> None:
    scale = Scale(0.0, 0.0, 1.0)
    usual, odd = {"end_loss": 1.0}, {"end_loss": 9.0}
    scores = tuple(scale.surprise(x) for x in (0.5, 1.0, 1.5))
    kind = KindCalibration(
        combination="end_loss",
        threshold=scores[2] + 0.1,
        basis="labels_f1",
        false_alarm_rate=0.1,
        scales={"end_loss": scale},
        normal_scores=scores,
        anomalous_sessions=3,
    )
    calibration = Calibration({"instance": kind})
    judge = Judge(calibration)
    above = judge.judge("instance", odd)
    assert above.anomalous
    assert above.p_value == 1 / 4
    assert above.score == scale.surprise(9.0) == sum(above.surprises.values())
    usually = judge.judge("instance", usual)
    assert not usually.anomalous
    assert usually.p_value == 3 / 4
    at = replace(kind, threshold=scores[1])
    assert not Judge(Calibration({"instance": at})).judge("instance", usual).anomalous
    # What a batch adds in the last digits changes no p-value.
    assert judge.judge("instance", {"end_loss": 1.0 + 1e-5}).p_value == 3 / 4
    assert judge.judge("instance", odd, late=True).unjudged == "late"
    assert judge.judge("request", odd).unjudged == "kind_not_calibrated"
    assert Calibration.from_json(calibration.to_json()) == calibration
    assert calibration.id != Calibration({}).id


# As calibrations were before there was more to say of them.
OLDER = KindCalibration(
    combination="end_loss",
    threshold=3.0,
    basis="conformal",
    false_alarm_rate=0.1,
    scales={"end_loss": Scale(0.0, 0.0, 1.0)},
    normal_scores=(0.5, 1.0),
)


def test_length_factors_are_part_of_a_calibration_and_older_ones_have_none() -> None:
    assert "length_factors" not in OLDER.to_json()
    assert KindCalibration.from_json(OLDER.to_json()) == OLDER
    parted = replace(OLDER, length_factors=((1, 1.0), (30, 0.5)))
    assert KindCalibration.from_json(orjson.loads(orjson.dumps(parted.to_json()))) == parted
    assert Calibration({"instance": parted}).id != Calibration({"instance": OLDER}).id
    judge = Judge(Calibration({"instance": parted}))
    short, long = (judge.judge("instance", {"end_loss": 9.0, LENGTH: lines}) for lines in (29.0, 30.0))
    assert short.anomalous
    assert not long.anomalous
    assert long.score == sum(long.surprises.values()) == pytest.approx((short.score or 0) / 2)


def test_the_interval_of_the_promised_rate_is_part_of_a_calibration_and_older_ones_have_none() -> None:
    assert "false_alarm_interval" not in OLDER.to_json()
    assert KindCalibration.from_json(OLDER.to_json()) == OLDER
    newer = replace(OLDER, false_alarm_interval=(0.01, 0.2))
    assert KindCalibration.from_json(orjson.loads(orjson.dumps(newer.to_json()))) == newer


def test_a_judge_that_adapts_raises_its_threshold_under_drift_and_one_that_is_off_does_not() -> None:
    scale = Scale(0.0, 0.0, 1.0)
    normal = tuple(scale.surprise(x / 10) for x in range(1, 40))
    threshold = float(np.quantile(normal, 0.9))
    calibration = Calibration(
        {
            "instance": KindCalibration(
                combination="end_loss",
                threshold=threshold,
                basis="conformal",
                false_alarm_rate=0.1,
                scales={"end_loss": scale},
                normal_scores=normal,
            )
        }
    )
    drifted = {"end_loss": 6.0}
    off, adapting = Judge(calibration), Judge(calibration, DriftMode.ADAPT)
    assert sum(off.judge("instance", drifted).anomalous for _ in range(60)) == 60
    verdicts = [adapting.judge("instance", drifted) for _ in range(60)]
    assert verdicts[0].threshold == threshold
    assert sum(verdict.anomalous for verdict in verdicts) < 20
    assert adapting.judge("instance", {"end_loss": 1e6}).anomalous
