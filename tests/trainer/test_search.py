"""`--search`: trials within a budget, judged on the validation sessions; the first is what was asked for."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import orjson
import pytest
import torch
import yaml

from loggpt_stream.errors import UserError
from loggpt_stream.model.bundle import Bundle, load_bundle
from tests.trainer.conftest import TINY
from trainer.cli import main
from trainer.curve import EpochLosses, best_line_loss
from trainer.learn import fresh_model, validate
from trainer.material import Material, fit_tokenizer, make_material
from trainer.progress import TrainingProgress
from trainer.search import better_of, search
from trainer.settings import ModelSettings, TokenizerSettings, TrainerSettings, TrainingSettings
from trainer.trials import DONE, TIME_UP, Trial, best_trial, with_found
from trainer.world import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loggpt_stream.lines.session import Session
    from tests.trainer.conftest import Start

pytestmark = pytest.mark.slow  # it trains many times

ALONE = World(0, 1, torch.device("cpu"))
QUIET = TrainingProgress(speaks=False)
# What --search looks for is left to the YAML file in some tests.
SEARCHED = ("layers", "width", "heads", "batch-tokens", "learning-rate")


@pytest.fixture(scope="module")
def material(sessions: list[Session]) -> Material:
    tokenizer = fit_tokenizer(
        sessions[:40], TokenizerSettings(vocabulary_size=700, piece_vocabulary_size=300, max_line_tokens=16)
    )
    return make_material(sessions[:40], sessions[40:60], tokenizer, 128)


def asking(
    path: Path, *, trials: int, minutes: float = 20, epochs: int = 1, seed: int = 42, rate: float = 0.0030123
) -> TrainerSettings:
    return TrainerSettings(
        inputs=["x"],
        out=path / "bundle",
        tokenizer=TokenizerSettings(max_line_tokens=16),
        model=ModelSettings(layers=1, width=32, heads=2, context_tokens=128, dropout=0.1234),
        training=TrainingSettings(epochs=epochs, batch_tokens=1024, learning_rate=rate, warmup_steps=5),
        search=True,
        search_minutes=minutes,
        search_trials=trials,
        seed=seed,
    )


def ticking(s: float) -> Callable[[], float]:
    """Return a clock that goes on by `s` seconds each time it is read."""
    now_s = count()
    return lambda: next(now_s) * s


def losses(validation_loss: float) -> EpochLosses:
    return EpochLosses(1, 1.0, 1.0, validation_loss, validation_loss, 1.0, 1.0, 1.0)


def trial(number: int, loss: float, ended: str = DONE) -> Trial:
    return Trial(number, {}, (losses(loss),), 1.0, ended)


@pytest.fixture(scope="module")
def seven(material: Material, tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    return search(asking(tmp_path_factory.mktemp("seven"), trials=7, epochs=3), material, ALONE, QUIET)


def test_the_first_trial_is_what_was_asked_for_and_the_best_is_at_least_as_good(seven: list[Trial]) -> None:
    assert [each.number for each in seven] == list(range(1, 8))
    assert seven[0].found == {
        "model": {"layers": 1, "width": 32, "heads": 2, "dropout": 0.1234},
        "training": {"batch_tokens": 1024, "learning_rate": 0.0030123},
    }
    assert seven[0].ended == DONE
    assert best_trial(seven).loss <= seven[0].loss
    assert best_trial(seven).loss == min(each.loss for each in seven if each.whole)


def test_trials_differ_and_all_of_them_are_valid_settings(seven: list[Trial], tmp_path: Path) -> None:
    assert len({orjson.dumps(each.found) for each in seven}) == 7
    for each in seven:
        tried = with_found(asking(tmp_path, trials=1), each.found)
        assert TrainerSettings.model_validate(tried.model_dump(by_alias=True)) == tried
        assert tried.model.width // tried.model.heads == 16
        assert tried.model.context_tokens == 128


def test_a_trial_that_is_worse_than_most_ends_after_its_second_epoch_at_the_earliest(seven: list[Trial]) -> None:
    pruned = [each for each in seven if each.ended == "worse than most by then"]
    assert pruned
    assert all(each.number > 4 and len(each.curve) >= 2 for each in pruned)
    assert best_trial(seven) not in pruned


def test_the_same_seed_tries_the_same_settings_and_another_seed_others(
    seven: list[Trial], material: Material, tmp_path: Path
) -> None:
    again = search(asking(tmp_path / "again", trials=7, epochs=3), material, ALONE, QUIET)
    other = search(asking(tmp_path / "other", trials=2, seed=43), material, ALONE, QUIET)
    assert [each.found for each in again] == [each.found for each in seven]
    assert [each.loss for each in again] == pytest.approx([each.loss for each in seven], rel=1e-4)
    assert other[1].found != seven[1].found


@pytest.mark.parametrize(("trial_s", "trials"), [(75.0, 8), (110.0, 6), (115.0, 5), (700.0, 1), (20.0, 10)])
def test_no_trial_begins_that_the_budget_has_no_time_for(
    material: Material, tmp_path: Path, trial_s: float, trials: int
) -> None:
    # A budget of 600 s, of which a trial may take an eighth.
    asked = asking(tmp_path, trials=10, minutes=10)
    assert len(search(asked, material, ALONE, QUIET, ticking(trial_s))) == trials


def test_a_trial_ends_when_its_share_of_the_time_is_up_and_may_win(material: Material, tmp_path: Path) -> None:
    trials = search(asking(tmp_path, trials=2, minutes=1e-9, epochs=500), material, ALONE, QUIET, ticking(0.0))
    assert [(each.ended, len(each.curve)) for each in trials] == [(TIME_UP, 1)] * 2
    assert best_trial(trials) in trials


def test_the_best_is_the_whole_trial_with_the_least_loss() -> None:
    assert best_trial([trial(1, 3.0), trial(2, 2.0, TIME_UP), trial(3, 2.0), trial(4, 1.0, "pruned")]).number == 2


def test_a_search_in_which_nothing_can_be_learned_says_where_to_search(material: Material, tmp_path: Path) -> None:
    trials = search(asking(tmp_path, trials=2, rate=1e30), material, ALONE, QUIET)
    assert [each.ended for each in trials] == ["loss not finite"] * 2
    with pytest.raises(UserError, match=r"none of 2 trials .*loss not finite.* lower --training\.learning-rate"):
        best_trial(trials)


def test_where_training_ends_worse_than_the_trial_that_won_the_trials_weights_are_kept(
    material: Material, tmp_path: Path
) -> None:
    # With 500 epochs and no time, a trial is cut off after one step.
    asked = asking(tmp_path, trials=3, minutes=1e-9, epochs=500)
    best = best_trial(search(asked, material, ALONE, QUIET, ticking(0.0)))
    found = with_found(asked, best.found)
    model = fresh_model(found.model.shape(), material, seed=7)
    better, worse = (losses(best.loss - 0.1),), (losses(best.loss + 0.1),)
    assert better_of(model, better, found, QUIET) == better
    _, untouched, _ = validate(model, material.validation, material.pad_id, ALONE)
    assert better_of(model, worse, found, QUIET) == best.curve
    _, kept, _ = validate(model, material.validation, material.pad_id, ALONE)
    assert kept == pytest.approx(best.loss, abs=1e-6)
    assert kept != pytest.approx(untouched, abs=1e-3)
    # Weights that another trial left are not taken for those of the one that won.
    assert better_of(model, worse, asked.model_copy(update={"model": ModelSettings(layers=3)}), QUIET) == worse


def test_a_search_that_was_cut_off_goes_on_after_its_last_trial(material: Material, tmp_path: Path) -> None:
    asked = asking(tmp_path / "cut", trials=4)

    class CutOff(Exception):  # noqa: N818 - not an error
        pass

    class Cut(TrainingProgress):
        said = 0

        def say(self, text: str) -> None:
            del text
            self.said += 1
            if self.said == 3:  # the header, and two trials
                raise CutOff

    with pytest.raises(CutOff):
        search(asked, material, ALONE, Cut(speaks=False), ticking(1.0))
    whole = search(asking(tmp_path / "whole", trials=4), material, ALONE, QUIET, ticking(5.0))
    went_on = search(asked, material, ALONE, QUIET, ticking(5.0))
    assert [each.seconds for each in went_on] == [1.0, 1.0, 5.0, 5.0]
    assert [each.found for each in went_on] == [each.found for each in whole]
    other = search(asked.model_copy(update={"seed": 7}), material, ALONE, QUIET, ticking(5.0))
    assert [each.seconds for each in other] == [5.0] * 4


def test_damaged_trials_are_refused_with_the_remedy(material: Material, tmp_path: Path) -> None:
    asked = asking(tmp_path, trials=2)
    search(asked, material, ALONE, QUIET)
    file = asked.checkpoint_directory / "search.json"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"damaged .*: start afresh with --no-resume"):
        search(asked, material, ALONE, QUIET)


@pytest.fixture(scope="module")
def found(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("found") / "bundle"
    assert main([*TINY, "--search", "--search-trials=4", "--out", str(out), str(log)]) == 0
    return load_bundle(out, calibrated=False)


def test_the_report_tells_of_every_trial_and_of_the_best(found: Bundle) -> None:
    report = found.path.with_name("bundle-report")
    for name in ("best.yaml", "search.json", "search.png", "training_report.json"):
        assert (report / name).exists()
    assert (report / "search.png").read_bytes().startswith(b"\x89PNG")
    told = orjson.loads((report / "search.json").read_bytes())
    assert [each["number"] for each in told["trials"]] == [1, 2, 3, 4]
    best = told["trials"][told["best"]["number"] - 1]
    assert yaml.safe_load((report / "best.yaml").read_text()) == best["found"]
    assert not found.path.with_name("bundle.checkpoint").exists()


def test_the_bundle_states_what_was_found_and_is_as_good_as_the_trial(found: Bundle) -> None:
    report = found.path.with_name("bundle-report")
    told = orjson.loads((report / "search.json").read_bytes())
    for section, values in yaml.safe_load((report / "best.yaml").read_text()).items():
        assert values.items() <= found.training[section].items()
    curve = [EpochLosses(**losses, seconds=0.0, tokens_per_s=0.0) for losses in found.training["epochs"]]
    assert best_line_loss(curve) == pytest.approx(told["best"]["validation_line_loss"], rel=1e-4)


def test_training_with_best_yaml_gives_the_same_bundle(found: Bundle, log: Path, tmp_path: Path) -> None:
    best = found.path.with_name("bundle-report") / "best.yaml"
    rest = [flag for flag in TINY if flag.split("=")[0].split(".")[-1] not in SEARCHED]
    assert main(["--config", str(best), *rest, "--out", str(tmp_path / "bundle"), str(log)]) == 0
    assert load_bundle(tmp_path / "bundle", calibrated=False).fingerprint == found.fingerprint


def test_under_several_processes_a_search_is_refused_once_before_anything_is_read(tmp_path: Path, start: Start) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainer.cli")
    two = start(*TINY, "--search", "--out", str(tmp_path / "bundle"), str(tmp_path / "away.log"), launcher=launcher)
    told, _ = two.communicate(timeout=120)
    assert two.returncode != 0
    assert told.count("error: --search works in one process, and torchrun started 2") == 1
    assert "no such file" not in told
