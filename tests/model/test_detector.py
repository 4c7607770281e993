"""The detector: what a bundle becomes once it is loaded."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING

import pytest
import torch

from loggpt_stream.lines.gathering import Gathering
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.model.detector import Detector
from loggpt_stream.model.drift_mode import DriftMode
from testing.tiny_bundle import nova34, tiny_bundle

if TYPE_CHECKING:
    from loggpt_stream.model.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=0.5, early_share=0.5)


def test_a_bundle_that_is_not_calibrated_makes_no_detector(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="calibrated"):
        Detector.load(replace(bundle, calibration=None), torch.device("cpu"))


def test_nothing_of_a_detector_can_be_set(bundle: Bundle) -> None:
    detector = Detector.load(bundle, torch.device("cpu"))
    with pytest.raises(FrozenInstanceError):
        detector.calibration_id = "another"  # type: ignore[misc]


def test_an_open_session_is_judged_by_the_statistics_that_never_fall_and_no_others(bundle: Bundle) -> None:
    detector = Detector.load(bundle, torch.device("cpu"))
    session = next(each for each in nova34().sessions[160:] if each.kind == "instance")
    early = detector.new_judge(DriftMode.OFF).early("instance")
    assert early
    score, verdict = detector.judge_open(detector.scorer.prepare(session), early)
    assert set(score.statistics) == set(early.scales) == set(verdict.surprises)
    assert verdict.anomalous == (early.score(score.statistics) > early.threshold)


def test_a_kind_that_was_not_trained_on_has_no_line_frequencies(bundle: Bundle) -> None:
    detector = Detector.load(bundle, torch.device("cpu"))
    assert detector.line_frequencies("instance").sessions > 0
    assert detector.line_frequencies("window").sessions == 0


def test_the_fingerprint_of_the_default_rules_is_that_of_version_0_1_0() -> None:
    # Where it changes, every session that is open at an upgrade goes unjudged.
    assert Gathering(SessionRules(), Masks()).fingerprint == "ad8a2fac95369709"
    assert Gathering(SessionRules(idle_gap_s=60), Masks()).fingerprint != "ad8a2fac95369709"
