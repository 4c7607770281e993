"""What a calibrated bundle becomes once it is loaded: whoever scores and judges sessions holds this, and no more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loggpt_stream.lines.gathering import Gathering
from loggpt_stream.model.calibration import Judge
from loggpt_stream.model.line_frequencies import EMPTY

if TYPE_CHECKING:
    import torch

    from loggpt_stream.lines.shapes import Shape
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.calibration import Calibration, EarlyCalibration, Verdict
    from loggpt_stream.model.drift_mode import DriftMode
    from loggpt_stream.model.line_frequencies import LineFrequencies
    from loggpt_stream.model.scoring import Prepared, Scorer
    from loggpt_stream.model.session_score import SessionScore


@dataclass(frozen=True, slots=True)
class Detector:
    """Preprocessing, scorer and calibration of one bundle. It does not change: another bundle is another detector.

    model_fingerprint: 16 hex digits of weights, tokenizer and preprocessing. calibration_id: 16 hex digits.
    """

    gathering: Gathering
    scorer: Scorer
    calibration: Calibration
    model_fingerprint: str
    calibration_id: str

    @classmethod
    def load(
        cls, bundle: Bundle, device: torch.device, *, batch_tokens: int = 8192, shape: Shape | None = None
    ) -> Detector:
        """Load a bundle onto `device`. shape: see `decode`. Raises `ValueError` where it is not calibrated."""
        if bundle.calibration is None:
            raise ValueError("a detector needs a calibrated bundle")
        return cls(
            Gathering(bundle.preprocessing.session_rules, bundle.masks(), shape),
            bundle.scorer(device, batch_tokens=batch_tokens),
            bundle.calibration,
            bundle.model_fingerprint,
            bundle.calibration.id,
        )

    def new_judge(self, drift: DriftMode) -> Judge:
        """Return the judge of one stream of sessions, at the calibrated thresholds."""
        return Judge(self.calibration, drift)

    def line_frequencies(self, kind: str) -> LineFrequencies:
        """Return what the training sessions of a kind consist of; none for a kind that there was none of."""
        return self.scorer.line_frequencies.get(kind, EMPTY)

    def judge_open(self, so_far: Prepared, early: EarlyCalibration) -> tuple[SessionScore, Verdict]:
        """Score and judge an open session by its lines so far; on the scorer's thread. Raises as `Scorer.score`."""
        (score,) = self.scorer.score_prepared([so_far])
        score = replace(score, statistics={name: score.statistics[name] for name in early.scales})
        return score, early.judge(score.statistics)
