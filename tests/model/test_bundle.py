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
from loggpt_stream.model.book import KnownLine, LineBook
from loggpt_stream.model.bundle import MANIFEST, load_bundle, save_bundle, save_calibrated
from loggpt_stream.model.calibration import Calibration, KindCalibration
from loggpt_stream.model.gpt import ModelShape, new_model
from loggpt_stream.model.sequence import Passes
from loggpt_stream.model.statistics import Scale
from tests.tiny_bundle import books_of, nova34, tiny_bundle, untrained_parts

if TYPE_CHECKING:
    from loggpt_stream.model.bundle import Bundle

DEFAULT_PASSES = Passes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("made") / "bundle", steps=3)


@pytest.fixture
def copy(made: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.path, tmp_path / "copy"))


def uncalibrated(
    path: Path, seed: int = 1, *, passes: Passes = DEFAULT_PASSES, books: dict[str, LineBook] | None = None
) -> Bundle:
    torch.manual_seed(seed)
    tokenizer, meaning = untrained_parts(10)
    meaning = replace(meaning, passes=passes)
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
        meaning=meaning,
        books=books_of(nova34().sessions[:10]) if books is None else books,
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
    kind = KindCalibration("end_loss", 2.0, "labels_f1", 0.1, {"end_loss": Scale(0.0, 1.0, 1.0)}, (0.5, 1.5), 3)
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
    _, meaning = untrained_parts()
    assert loaded.meaning == meaning
    assert loaded.masks().mask("vm 7c394555-b573-4de3-a038-789af2d1ff4d") == "vm <uuid>"
    assert loaded.training == {"seed": 42}


def test_passes_come_back_as_they_were_and_are_part_of_the_models_meaning(tmp_path: Path) -> None:
    passes = Passes(block_lines=3, tail_lines=5, digest=False, hygiene=False, separator=True)
    other, usual = uncalibrated(tmp_path / "other", passes=passes), uncalibrated(tmp_path / "usual")
    assert load_bundle(other.path, calibrated=False).meaning.passes == passes
    assert other.scorer(torch.device("cpu")).passes == passes
    assert other.model_fingerprint != usual.model_fingerprint


def test_books_come_back_as_they_were_and_are_part_of_the_models_meaning(tmp_path: Path) -> None:
    books = books_of(nova34().sessions[:40])
    bundle = uncalibrated(tmp_path / "bundle", books=books)
    assert bundle.books() == books
    assert any(known.first_s is not None for known in books["instance"].lines.values())
    for kind, book in bundle.books().items():
        assert list(book.lines) == list(books[kind].lines)  # in their order: absent lines are told by it
    assert bundle.scorer(torch.device("cpu")).books == books
    assert bundle.model_fingerprint != uncalibrated(tmp_path / "other").model_fingerprint


@pytest.mark.parametrize(
    "text", ["\ud800 high", "low \udfff", "\udc80\ud800", "nul \0", "\x1b[31m", "\u2028", "", '"\\']
)
def test_a_line_of_odd_characters_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    books = {"request": LineBook(2, {text: KnownLine(1, 0.5, 0.3)})}
    assert uncalibrated(tmp_path / "bundle", books=books).books() == books


def test_every_file_of_a_bundle_can_be_read_by_the_daemons_user(made: Bundle) -> None:
    assert {oct(file.stat().st_mode & 0o777) for file in made.path.iterdir()} == {"0o644"}
    assert made.path.stat().st_mode & 0o777 == 0o755


def test_weights_come_back_exactly_and_score_the_same(made: Bundle) -> None:
    session = nova34().sessions[3]
    one, other = (load_bundle(made.path).scorer(torch.device("cpu")).score([session])[0] for _ in range(2))
    assert one.line_losses_L.tolist() == other.line_losses_L.tolist()
    assert one.end_loss == other.end_loss


def test_verdicts() -> None:
    scale = Scale(0.0, 0.5, 0.4)
    normal = tuple(scale.surprise(end_loss) for end_loss in (0.5, 1.0, 1.5))
    kind = KindCalibration("end", scale.surprise(2.0), "labels_f1", 0.1, {"end_loss": scale}, normal, 3)
    calibration = Calibration({"instance": kind})
    above = calibration.judge("instance", {"end_loss": 2.1, "max_line_loss": 99.0})
    assert above.anomalous
    assert above.p_value == 1 / 4
    assert (above.combination, above.score, above.threshold) == ("end", scale.surprise(2.1), scale.surprise(2.0))
    # What has no scale does not decide.
    assert above.surprises == {"end_loss": scale.surprise(2.1)}
    assert calibration.uses("end_loss")
    assert not calibration.uses("max_line_loss")
    at = calibration.judge("instance", {"end_loss": 2.0})
    assert not at.anomalous
    assert calibration.judge("instance", {"end_loss": 1.0}).p_value == 3 / 4
    # What a batch adds in the last digits changes no p-value.
    assert calibration.judge("instance", {"end_loss": 1.0 + 1e-5}).p_value == 3 / 4
    assert calibration.judge("instance", {"end_loss": 9.0}, late=True).unjudged == "late"
    assert calibration.judge("request", {"end_loss": 9.0}).unjudged == "kind_not_calibrated"
    assert Calibration.from_json(calibration.to_json()) == calibration
    assert calibration.id != Calibration({}).id


def test_a_score_is_the_sum_of_the_surprises_of_its_statistics() -> None:
    scales = {"end_loss": Scale(0.0, 0.5, 0.4), "absent_lines": Scale(0.0, 1.0, 0.3)}
    kind = KindCalibration("two", 3.0, "robust_tail", 0.1, scales, (0.5, 1.0))
    verdict = Calibration({"instance": kind}).judge("instance", {"end_loss": 2.0, "absent_lines": 7.0})
    assert verdict.surprises == {
        "end_loss": scales["end_loss"].surprise(2.0),
        "absent_lines": scales["absent_lines"].surprise(7.0),
    }
    assert verdict.score == pytest.approx(sum(verdict.surprises.values()))


def test_ranks_are_computed_where_the_calibration_judges_by_them(tmp_path: Path) -> None:
    bundle = uncalibrated(tmp_path / "bundle")
    assert not bundle.scorer(torch.device("cpu")).ranks
    assert bundle.scorer(torch.device("cpu"), ranks=True).ranks
    kind = KindCalibration("ranks", 2.0, "labels_f1", 0.1, {"top_k_misses": Scale(0.0, 1.0, 1.0)}, (0.5, 1.5))
    done = save_calibrated(
        bundle, tmp_path / "done", calibration=Calibration({"instance": kind}), calibration_sessions=np.array([9])
    )
    assert done.scorer(torch.device("cpu")).ranks
