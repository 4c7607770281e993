"""What calibrating lengths apart is worth: false alarms by length, and how much may be failures for it to be done.

Short ones: requests of openstack-faults, of which most have a single line. Long ones: lives of nova34's instances in a
row under one key, up to a thousand of them, since no recording that we have holds a session of 10^5 lines.

    python -m benchmarks.session_lengths            about ten minutes; the tables of docs/decisions/0009
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from benchmarks.quality_cases import CASES, VARIANTS, read_case, split_of
from calibrate.per_kind import CalibrationRequest, calibrate_kinds
from calibrate.sessions import score_sessions
from loggpt_stream.history.corpus import Corpus
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.settings import load
from trainer.settings import TrainerSettings
from trainer.train import train

if TYPE_CHECKING:
    from benchmarks.quality_cases import Case
    from calibrate.sessions import ScoredSession
    from loggpt_stream.history.labels import Labels
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.calibration import KindCalibration
    from loggpt_stream.model.scoring import Scorer

ASKED: Final = (0.02, 0.05)
CONTAMINATION: Final = (0.1, 0.02, 0.0)
_ONE_REQUEST_IN: Final = 10
_BANDS: Final = (1, 2, 4, 10, 10**9)
_LIVES: Final = (1, 3, 10, 100, 1000)
_DRAWS: Final = 20


def main() -> None:
    """Print both tables."""
    requests = replace(
        CASES["instance"], kind="request", key_order=("instance", "instance_in_text", "request"), later=None
    )
    sessions, labels = _normal(requests)
    chosen = [each for each in sessions if each.fingerprint() % _ONE_REQUEST_IN == 0]
    learned = [each for each in chosen if split_of(each, labels) == "train"]
    scorer, held = _fitted(requests, learned)
    others = [each for each in chosen if split_of(each, labels) in ("val", "test")]
    print(f"{len(held):,} requests of calibration, {len(others):,} normal ones judged.\n")
    bands = [f"{low} to {high - 1} lines" if high < _BANDS[-1] else f"{low} or more" for low, high in pairwise(_BANDS)]
    print(f"| asked | may be failures | scores count | all | {' | '.join(bands)} |")
    print("| ---: | ---: | --- |" + " ---: |" * (1 + len(bands)))
    judged = score_sessions(others, scorer, None, "failed")
    for asked, contamination in product(ASKED, CONTAMINATION):
        parted = _calibrated(held, asked, contamination)
        of_one_length = [replace(each, session=held[0].session) for each in held]
        alike = _calibrated(of_one_length, asked, contamination)
        for calibration in [alike, parted] if parted.length_factors else [alike]:
            factors = ", ".join(f"{factor:.2f} from {least}" for least, factor in calibration.length_factors)
            print(f"| {asked:.0%} | {contamination:.0%} | {factors or 'alike'} | {_by_length(judged, calibration)} |")

    case = CASES["nova34"]
    sessions, labels = _normal(case)
    scorer, held = _fitted(case, [each for each in sessions if split_of(each, labels) == "train"])
    calibration = _calibrated(held, ASKED[0], CONTAMINATION[0])
    val = [each for each in sessions if split_of(each, labels) == "val"]
    print("\nlives of instances in a row:\n")
    print("| lives | lines (median) | false alarms | median score, nats | early alarms |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    draw = random.Random(1)  # noqa: S311 - nothing is hidden by it
    for lives in _LIVES:
        members = [_in_a_row([draw.choice(val) for _ in range(lives)]) for _ in range(_DRAWS)]
        statistics = [each.statistics for each in scorer.score(members)]
        scores_N = np.array([calibration.score(each) for each in statistics])
        early = calibration.early
        early_alarms = sum(early.score(each) > early.threshold for each in statistics) if early else 0
        lines = np.median([len(each.lines) for each in members])
        alarms = (scores_N > calibration.threshold).mean()
        print(f"| {lives} | {lines:,.0f} | {alarms:.0%} | {np.median(scores_N):.1f} | {early_alarms / _DRAWS:.0%} |")


def _normal(case: Case) -> tuple[list[Session], Labels]:
    corpus, labels = read_case(case, VARIANTS["default"], case.log, case.labels)
    return [each for each in corpus.sessions if not each.late and labels.anomalous(each, "failed") is False], labels


def _fitted(case: Case, learned: list[Session]) -> tuple[Scorer, list[ScoredSession]]:
    """Train on these sessions, and score those that the trainer held out."""
    with tempfile.TemporaryDirectory() as scratch:
        flags = ["--out", f"{scratch}/bundle", "--threads", "1", "--device", "cpu", "--labels", str(case.labels)]
        settings = load(TrainerSettings, [*flags, *case.flags, str(case.log)], prog="loggpt-train", description="")
        train(settings, Corpus(learned))
        bundle = load_bundle(Path(scratch) / "bundle", calibrated=False)
        scorer = bundle.scorer(torch.device("cpu"))
    held = set(bundle.used_sessions["validation"].tolist())
    return scorer, score_sessions([each for each in learned if each.fingerprint() in held], scorer, None, "failed")


def _calibrated(held: list[ScoredSession], asked: float, contamination: float) -> KindCalibration:
    return calibrate_kinds(held, CalibrationRequest(asked, contamination), labelled=False).kinds[0].calibration


def _by_length(judged: list[ScoredSession], calibration: KindCalibration) -> str:
    alarms_N = np.array([calibration.score(each.statistics) > calibration.threshold for each in judged])
    lines_N = np.array([len(each.session.lines) for each in judged])
    of_bands = [alarms_N[(lines_N >= low) & (lines_N < high)] for low, high in pairwise(_BANDS)]
    return " | ".join(f"{each.mean():.1%}" for each in (alarms_N, *of_bands))


def _in_a_row(lives: list[Session]) -> Session:
    """Return one session of the lines of several, each life beginning ten seconds after the one before."""
    lines = []
    at_s = lives[0].lines[0].time_s
    for life in lives:
        shift_s = at_s - life.lines[0].time_s
        lines += [replace(line, time_s=line.time_s + shift_s) for line in life.lines]
        at_s = lines[-1].time_s + 10
    return replace(lives[0], lines=lines)


if __name__ == "__main__":
    main()
