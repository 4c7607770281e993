"""One fit of `make quality`: train, calibrate with and without labels, and measure on sessions nobody has seen."""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from benchmarks.early_measure import announced
from benchmarks.quality_cases import CASES, VARIANTS, WITH_TAIL, read_case, split_of
from benchmarks.reinforce import reinforce
from calibrate.baselines import baseline_scores
from calibrate.curves import auc_roc, average_precision, counts_at, detection_metrics, rate_interval
from calibrate.per_kind import CalibrationRequest, calibrate_kinds, candidate_scales, scores_of
from calibrate.sessions import score_sessions
from calibrate.threshold import best_f1_cut, score_spread
from loggpt_stream.history.corpus import Corpus
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.model.drift_mode import DriftMode
from loggpt_stream.model.statistics import COMBINATIONS, COMBINED, MODEL, fit_scales
from loggpt_stream.settings import load
from trainer.settings import TrainerSettings
from trainer.train import train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.quality_cases import Case, Variant
    from calibrate.sessions import ScoredSession
    from loggpt_stream.history.labels import Labels
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.calibration import KindCalibration
    from loggpt_stream.model.scoring import Scorer
    from loggpt_stream.model.statistics import AnyScale

ASKED: Final = (0.02, 0.05)
CONTAMINATIONS: Final = (0.0, 0.01, 0.05, 0.1)
DRAWS: Final = 20
# Held out by the trainer, of the splits, of the later recording, and failures that no split chooses or measures by.
ROLES: Final = ("held", "val", "test", "later", "failures")
# The line set's loss without that of its end, which is no statistic of ours.
_LINE_SET_LINES: Final = "digest_lines_loss"


def _without_end(members: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_LINE_SET_LINES if each == "digest_loss" else each for each in members if each != "digest_end_loss")


# Combinations beyond those that calibration offers, for the table of what each statistic is worth.
MORE: Final[dict[str, tuple[str, ...]]] = {
    WITH_TAIL[0]: (*COMBINATIONS[COMBINED], "end_loss"),
    WITH_TAIL[1]: (*COMBINATIONS[MODEL], "end_loss"),
    "everything without the end token": _without_end(COMBINATIONS[COMBINED]),
    "language model without the end token": _without_end(COMBINATIONS[MODEL]),
    "everything with max_line_loss": (*COMBINATIONS[COMBINED], "max_line_loss"),
    "everything without the digest": tuple(each for each in COMBINATIONS[COMBINED] if "digest" not in each),
    # The line set's two go together, above.
    **{
        f"everything without {name}": tuple(each for each in COMBINATIONS[COMBINED] if each != name)
        for name in COMBINATIONS[COMBINED]
        if "digest" not in name
    },
    "everything with top_k_misses": (*COMBINATIONS[COMBINED], "top_k_misses"),
    "mean and maximum, without the digest": ("mean_line_loss", "max_line_loss"),
}

_corpora: dict[tuple[str, object], tuple[Corpus, Labels]] = {}


@dataclass(frozen=True, slots=True)
class Fit:
    """One thing to do: a case, a change, a seed."""

    case: str
    variant: str
    seed: int


@dataclass
class Scored:
    """All sessions that are measured, by role (see ROLES)."""

    scorer: Scorer
    later_labels: Labels | None = None
    by_role: dict[str, list[ScoredSession]] = field(default_factory=dict)


def run_fit(fit: Fit) -> dict[str, Any]:
    """Do it and return what was measured."""
    began_s = time.monotonic()
    scored, labels, costs = fitted(fit)
    measured = _measure(scored, labels, CASES[fit.case], fit.seed)
    return {
        "case": fit.case,
        "variant": fit.variant,
        "seed": fit.seed,
        "train_s": costs.pop("train_s"),
        "all_s": time.monotonic() - began_s,
        **costs,
        **measured,
    }


def fitted(fit: Fit, roles: Sequence[str] = ROLES) -> tuple[Scored, Labels, dict[str, Any]]:
    """Train, and score the sessions of these roles. Returns them, the labels, and what it cost."""
    case, variant = CASES[fit.case], VARIANTS[fit.variant]
    corpus, labels = _read(case, variant)
    with tempfile.TemporaryDirectory() as scratch:
        bundle, trained_s = _train(fit, corpus, labels, Path(scratch))
        scored, costs = _score(fit, corpus, labels, bundle, roles)
    return scored, labels, {"train_s": trained_s, **costs}


def _read(case: Case, variant: Variant) -> tuple[Corpus, Labels]:
    """Read a case once in each process: most variants differ in training only."""
    as_read = (variant.key_order, variant.mask_rules, variant.lines)
    key = (case.name, as_read)
    if key not in _corpora:
        _corpora.pop(next(iter(_corpora)), None) if len(_corpora) > 1 else None
        _corpora[key] = read_case(case, variant, case.log, case.labels)
    return _corpora[key]


def _train(fit: Fit, corpus: Corpus, labels: Labels, scratch: Path) -> tuple[Bundle, float]:
    """Train on the normal sessions of split=train (and a share of failures, if the variant wants it)."""
    case, variant, seed = CASES[fit.case], VARIANTS[fit.variant], fit.seed
    chosen = [each for each in corpus.sessions if split_of(each, labels) == "train" and _failed(each, labels) is False]
    if variant.contamination:
        failures = _failures(corpus, labels)
        random.Random(seed).shuffle(failures)  # noqa: S311 - nothing is hidden by it
        chosen += failures[: round(variant.contamination * len(chosen) / (1 - variant.contamination))]
    flags = ["--out", str(scratch / "bundle"), "--seed", str(seed), "--threads", "1", "--device", "cpu"]
    flags += ["--labels", str(case.labels), *case.flags, *variant.flags]
    if case.group_column:
        flags += ["--group-column", case.group_column]
    settings = load(TrainerSettings, [*flags, str(case.log)], prog="loggpt-train", description="")
    began_s = time.monotonic()
    train(settings, Corpus(chosen))
    return load_bundle(scratch / "bundle", calibrated=False), time.monotonic() - began_s


def _score(
    fit: Fit, corpus: Corpus, labels: Labels, bundle: Bundle, wanted: Sequence[str]
) -> tuple[Scored, dict[str, Any]]:
    """Score the sessions of the wanted roles, and say how fast that went."""
    case, variant = CASES[fit.case], VARIANTS[fit.variant]
    scorer = bundle.scorer(torch.device("cpu"), ranks=True)
    if variant.reinforce:
        learned = set(bundle.used_sessions["train"].tolist())
        shown = [each for each in corpus.sessions if each.fingerprint() in learned]
        reinforce(scorer, shown, learning_rate=variant.reinforce, seed=fit.seed)
    held = set(bundle.used_sessions["validation"].tolist())
    roles: dict[str, list[Session]] = {
        "held": [each for each in corpus.sessions if each.fingerprint() in held],
        "val": [each for each in corpus.sessions if split_of(each, labels) == "val"],
        "test": [each for each in corpus.sessions if split_of(each, labels) == "test"],
        "failures": _failures(corpus, labels),
    }
    roles = {role: sessions for role, sessions in roles.items() if role in wanted}
    found = Scored(scorer)
    began_s = time.monotonic()
    for role, sessions in roles.items():
        found.by_role[role] = _score_all(sessions, scorer, labels) if sessions else []
    took_s = time.monotonic() - began_s
    lines = sum(len(each.lines) for sessions in roles.values() for each in sessions)
    if case.later and variant.name == "default" and "later" in wanted:
        later, found.later_labels = read_case(case, variant, *case.later)
        found.by_role["later"] = _score_all(later.sessions, scorer, found.later_labels)
    return found, {
        "lines_per_s": lines / took_s,
        "vocabulary": scorer.tokenizer.vocabulary_size,
        "parameters": sum(each.numel() for each in scorer.model.parameters()),
        "epochs": bundle.training["best_epoch"],
    }


def _score_all(sessions: Sequence[Session], scorer: Scorer, labels: Labels) -> list[ScoredSession]:
    """Score sessions, and add the line set's loss without its end."""
    found = score_sessions(sessions, scorer, labels, "failed")
    for each in found:
        if "digest_loss" in each.statistics:
            lines = len(set(each.session.texts))
            summed = each.statistics["digest_loss"] * (lines + 1) - each.statistics["digest_end_loss"]
            each.statistics[_LINE_SET_LINES] = summed / lines
    return found


def _failed(session: Session, labels: Labels) -> bool | None:
    return labels.anomalous(session, "failed")


def _failures(corpus: Corpus, labels: Labels) -> list[Session]:
    """Return failures that are in no split that anything is chosen or measured on."""
    return [
        each
        for each in corpus.sessions
        if split_of(each, labels) in ("train", "excluded") and _failed(each, labels) and not each.late
    ]


def _measure(scored: Scored, labels: Labels, case: Case, seed: int) -> dict[str, Any]:
    val, test = scored.by_role["val"], scored.by_role["test"]
    groups = [(labels.row(each.session) or {}).get(case.group_column or "", each.session.key) for each in test]
    scales = candidate_scales([each for each in val if not each.truth])
    everything = scales[COMBINED]
    statistics = [each.statistics for each in val if not each.truth]
    single = fit_scales(statistics, list(statistics[0]))
    for name, members in MORE.items():
        if all(each in single for each in members):
            scales[name] = {each: single[each] for each in members}
    chosen = calibrate_kinds(val, CalibrationRequest(), labelled=True).kinds[0].calibration
    combinations = {name: _with_labels(val, test, of, groups, seed) for name, of in scales.items() if of}
    return {
        "chosen": chosen.combination,
        "combinations": combinations,
        "ordinary_length": _ordinary_length(scored, scales),
        "baselines": _baselines(scored, case.kind),
        "early": _early(scored, chosen, labels),
        "by_length": _by_length(scored),
        "with_labels": [
            {"on": role, "drift": str(mode), **_seen(chosen, scored.by_role[role], mode)}
            for role in ("test", "later")
            for mode in (DriftMode.OFF, DriftMode.ADAPT)
            if role in scored.by_role
        ],
        "label_free": _label_free(scored),
        "contaminated_calibration": _contaminated(scored, seed),
        "scores": {
            role: [
                [round(float(each), 3) for each in scores_of(scored.by_role[role], everything)],
                _truth(role, scored),
            ]
            for role in ("val", "test")
        },
    }


def _truth(role: str, scored: Scored) -> list[int]:
    return [int(bool(each.truth)) for each in scored.by_role[role]]


def _with_labels(
    val: Sequence[ScoredSession],
    test: Sequence[ScoredSession],
    scales: Mapping[str, AnyScale],
    groups: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Choose the threshold on val, measure on test."""
    return _metrics((scores_of(val, scales), _truths(val)), (scores_of(test, scales), _truths(test)), groups, seed)


def _metrics(
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    groups: Sequence[str] | None = None,
    seed: int = 1,
    *,
    spread: float | None = None,
) -> dict[str, Any]:
    """Return the figures of scores and truths on test, at the threshold that is best on val."""
    threshold = best_f1_cut(*val, spread=score_spread(*val) if spread is None else spread)
    metrics = detection_metrics(*test, threshold, groups, seed=seed)
    on_val = detection_metrics(*val, threshold, resamples=1)
    return {
        "auc": metrics.auc_roc,
        "ap": metrics.auc_pr,
        "f1": metrics.f1,
        "precision": metrics.precision,
        "recall": metrics.recall,
        "confusion": [metrics.tp, metrics.fp, metrics.fn, metrics.tn],
        "intervals": metrics.intervals,
        "val_auc": on_val.auc_roc,
        "val_ap": on_val.auc_pr,
        "val_f1": on_val.f1,
    }


def _baselines(scored: Scored, kind: str) -> dict[str, Any]:
    """Return the simple detectors on the same split: fitted on train, threshold on val, measured on test."""
    val, test = scored.by_role["val"], scored.by_role["test"]
    frequencies = scored.scorer.line_frequencies[kind]
    typical = float(np.median([len(each.session.lines) for each in scored.by_role["held"]]))
    rows = {
        role: [baseline_scores(each.session, frequencies, typical) for each in members]
        for role, members in (("val", val), ("test", test))
    }
    found = {}
    for name in rows["val"][0]:
        val_N, test_N = (np.array([row[name] for row in rows[role]]) for role in ("val", "test"))
        # Calibrate's way to choose a threshold suits its own scores: each detector has what suits it better on test.
        ways = [_metrics((val_N, _truths(val)), (test_N, _truths(test)), spread=each) for each in (0.0, None)]
        found[name] = max(ways, key=itemgetter("f1"))
    return found


def _ordinary_length(scored: Scored, all_scales: Mapping[str, Mapping[str, AnyScale]]) -> dict[str, Any]:
    """Return AUC and average precision on the test sessions that are as long as some held-out normal session."""
    lines = [len(each.session.lines) for each in scored.by_role["held"]]
    members = [each for each in scored.by_role["test"] if min(lines) <= len(each.session.lines) <= max(lines)]
    truth_N = _truths(members)
    scores = {name: scores_of(members, all_scales[name]) for name in COMBINATIONS}
    return {
        "sessions": len(members),
        "failed": int(truth_N.sum()),
        **{
            name: {"auc": auc_roc(scores_N, truth_N), "ap": average_precision(scores_N, truth_N)}
            for name, scores_N in scores.items()
        },
    }


def _early(scored: Scored, with_labels: KindCalibration, labels: Labels) -> list[dict[str, Any]]:
    """Return what watching open sessions announces, with thresholds from labels and without."""
    without_labels = _calibrated_blind(scored, ASKED[0])
    where = {"test": labels, "later": scored.later_labels}
    return [
        {
            "on": role,
            "threshold": name,
            "drift": str(mode),
            **announced(scored.by_role[role], scored.scorer, calibration, table, mode),
        }
        for role, table in where.items()
        if table
        for name, calibration in (("labels", with_labels), ("none", without_labels))
        for mode in (DriftMode.OFF, DriftMode.ADAPT)
    ]


def _by_length(scored: Scored) -> list[dict[str, Any]]:
    """Return how many normal sessions of each third by length alarm, at a threshold without labels."""
    calibration = _calibrated_blind(scored, ASKED[-1])
    members = [each for role in ("val", "test") for each in scored.by_role[role] if not each.truth]
    members.sort(key=lambda each: len(each.session.lines))
    thirds = (members[len(members) * i // 3 : len(members) * (i + 1) // 3] for i in range(3))
    return [
        {
            "lines": [len(third[0].session.lines), len(third[-1].session.lines)],
            "normal": len(third),
            "false_alarms": sum(calibration.score(each.statistics) > calibration.threshold for each in third),
        }
        for third in thirds
    ]


def _calibrated_blind(scored: Scored, asked: float) -> KindCalibration:
    """Calibrate on the trainer's held-out sessions alone, their labels unused."""
    return (
        calibrate_kinds(blind(scored.by_role["held"]), CalibrationRequest(asked), labelled=False).kinds[0].calibration
    )


def _label_free(scored: Scored) -> list[dict[str, Any]]:
    """Calibrate without labels, for each asked rate, and see the rate on what came later."""
    found = []
    for asked in ASKED:
        calibration = _calibrated_blind(scored, asked)
        found += [
            {"asked": asked, "on": role, "drift": str(mode), **_seen(calibration, scored.by_role[role], mode)}
            for role in ("val", "test", "later")
            for mode in (DriftMode.OFF, DriftMode.ADAPT)
            if role in scored.by_role
        ]
    return found


def _contaminated(scored: Scored, seed: int) -> list[dict[str, Any]]:
    """As without labels, with a share of failures among the calibration sessions; robust, and taking all as normal.

    Which failures decides much where few sessions are calibrated on: means over DRAWS.
    """
    found = []
    for share in CONTAMINATIONS:
        for believed in (CalibrationRequest().contamination, 0.15, 0.0):
            draw = random.Random(seed)  # noqa: S311 - nothing is hidden by it
            rows = [
                _seen(_calibrated_with(scored, share, believed, draw), scored.by_role["test"]) for _ in range(DRAWS)
            ]
            means = {key: float(np.mean([row[key] for row in rows])) for key in ("rate", "f1", "recall")}
            found.append({"share": share, "contamination": believed, **means})
    return found


def _calibrated_with(scored: Scored, share: float, believed: float, draw: random.Random) -> KindCalibration:
    """Calibrate without labels for a rate of 5 %, on held-out sessions and so many failures."""
    held = scored.by_role["held"]
    count = share * len(held) / (1 - share)
    # Less than one failure in so few sessions is one in some of the draws.
    failures = draw.sample(scored.by_role["failures"], int(count) + (draw.random() < count % 1))
    members = blind([*held, *failures])
    return calibrate_kinds(members, CalibrationRequest(ASKED[-1], believed), labelled=False).kinds[0].calibration


def _seen(
    calibration: KindCalibration, members: Sequence[ScoredSession], mode: DriftMode = DriftMode.OFF
) -> dict[str, Any]:
    """Judge sessions in order of their close, as the daemon does, and compare with the truth."""
    members = sorted(members, key=lambda each: each.session.closed_s)
    scores_N = np.array([calibration.score(each.statistics) for each in members])
    monitor = calibration.drift_monitor(mode)
    thresholds_N = np.array([monitor.see(score) for score in scores_N.tolist()])
    counts = counts_at(scores_N - thresholds_N, _truths(members), np.zeros(1))
    normal = int(counts.fp_T[0] + counts.tn_T[0])
    return {
        "threshold": calibration.threshold,
        "last_threshold": monitor.threshold,
        "bound": monitor.bound,
        "promised_interval": calibration.false_alarm_interval,
        "drifted": monitor.drifted,
        "false_alarms": int(counts.fp_T[0]),
        "normal": normal,
        "rate": float(counts.false_alarm_rate[0]),
        "interval": rate_interval(int(counts.fp_T[0]), normal),
        "f1": float(counts.f1[0]),
        "recall": float(counts.recall[0]),
    }


def blind(members: Sequence[ScoredSession]) -> list[ScoredSession]:
    """Return the sessions without their labels."""
    return [
        type(each)(each.session, each.statistics, None, each.worst_line, each.worst_loss, each.content)
        for each in members
    ]


def _truths(members: Sequence[ScoredSession]) -> np.ndarray:
    return np.array([bool(each.truth) for each in members], dtype=bool)
