"""Scored sessions, losses and tokens → why a model cannot tell sessions apart. Pure, no I/O.

Each pathology is a `Finding`: what was seen, why it happens, what to do. `loggpt-calibrate diagnose` tells all of them;
`loggpt-calibrate` itself writes no threshold where one is fatal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch

from calibrate.curves import detection_metrics, most_shared_score
from calibrate.evaluation import groups_of
from calibrate.measurements import same_score
from calibrate.per_kind import POOR_AUC, candidate_scales, choose_combination, figures_of, is_collapsed, scores_of
from calibrate.sessions import DIAGNOSE, printable
from loggpt_stream.errors import UserError
from loggpt_stream.model.statistics import COMBINED, FROM_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calibrate.curves import SharedScore
    from calibrate.measurements import CommonCause, Leakage, LineMeasurements, LossProfile
    from calibrate.per_kind import CalibratedKind
    from calibrate.sessions import ScoredSession
    from loggpt_stream.model.calibration import KindCalibration
    from loggpt_stream.model.statistics import AnyScale

Severity = Literal["fatal", "warning"]

DAMAGED_WEIGHTS: Final = "damaged weights"
CONSTANT_LOSSES: Final = "constant losses"
UNTRAINED: Final = "no better than guessing"
CONTEXT_IGNORED: Final = "context ignored"
IDENTICAL_SCORES: Final = "identical scores"
ALL_ABOVE: Final = "everything above the threshold"
ALL_BELOW: Final = "everything below the threshold"
OVERLAP: Final = "normal and anomalous overlap"
INVERTED: Final = "labels or scores upside down"
FLIPPED: Final = "labels that look flipped"
VOCABULARY_FULL: Final = "vocabulary full"
UNSEEN_LINES: Final = "lines never seen"
CUT_LINES: Final = "lines cut"
CUT_ALIKE: Final = "sessions alike once cut"
TRAINED_ON: Final = "sessions of training"
VALIDATED_ON: Final = "sessions of validation"
GROUP_ON_BOTH_SIDES: Final = "one group on both sides"

# More than this share is no longer a matter of some sessions or lines: it is what the model does.
MOST: Final = 0.5
# So many lines in pieces outweigh what the whole ones say; recorded logs of days after training have 1 to 2 %.
LARGE_SHARE: Final = 0.2
# Cut lines hide what differs late in them. In recorded logs those never seen are cut, 1 to 2 %.
CUT_SHARE: Final = 0.05
# Guessing costs ln(vocabulary) a token. The median token of a model that learned at all costs half of that or less.
GUESSING: Final = 0.9
# Losses whose middle 98 % lie within this share of their median are one loss.
ONE_LOSS_SPREAD: Final = 0.01
# Fewer labelled sessions of a class, or sessions in all, tell nothing for certain.
FEW: Final = 10
CHANCE: Final = 0.5
# Two sessions may do anything by accident.
SOME: Final = 3
# A flip of one label in twenty is seen; recorded logs with right labels have 1 to 3 % that look flipped.
FLIPPED_SHARE: Final = 0.05
# Where fewer alerts than this are expected, none at all is no sign of anything: exp(-5) is less than 1 %.
EXPECTED_ALERTS: Final = 5.0
# So many recurring lines show whether the model reads them in their context.
_RECURRING: Final = 10
_FEW_TOKENS: Final = 100
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One pathology.

    kind: session kind, or "" where it is of the model or of all sessions. seen: in numbers. evidence: lines, tokens,
    session keys behind it; like all other texts safe to print. sharing: the sessions that share one score, for
    IDENTICAL_SCORES, so that they can be scored again and explained.
    """

    name: str
    severity: Severity
    kind: str
    seen: str
    why: str
    remedy: str
    evidence: tuple[str, ...] = ()
    sharing: tuple[ScoredSession, ...] = field(default=(), repr=False)

    @property
    def title(self) -> str:
        """Return the name, with the session kind if it has one."""
        return f"{self.kind}: {self.name}" if self.kind else self.name


@dataclass(frozen=True, slots=True)
class JudgedKind:
    """The sessions of one kind with the score that decides (nats).

    combination: what makes it up. model_N: the part of it that the language model says. truths: True for
    anomalous, False for normal, None for unknown. groups_N: what belongs together. threshold, false_alarm_rate: of the
    bundle, None where it has none for this kind.
    """

    kind: str
    combination: str
    sessions: list[ScoredSession] = field(repr=False)
    scores_N: np.ndarray = field(repr=False)
    model_N: np.ndarray = field(repr=False)
    truths: list[bool | None] = field(repr=False)
    groups_N: list[str] = field(repr=False)
    threshold: float | None = None
    false_alarm_rate: float | None = None

    @property
    def normal(self) -> np.ndarray:
        """Return the indices of sessions labelled normal."""
        return np.flatnonzero([truth is False for truth in self.truths])

    @property
    def anomalous(self) -> np.ndarray:
        """Return the indices of sessions labelled anomalous."""
        return np.flatnonzero([truth is True for truth in self.truths])

    def shared(self, indices: np.ndarray) -> SharedScore:
        """Return the score that most distinct sessions among `indices` have, by the model alone."""
        return most_shared_score(self.model_N[indices], [self.sessions[i].content for i in indices])


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found, fatal pathologies first, and what it was found in.

    left_out: session kinds that were not looked at, and why. lines, losses, leakage: None where weights so damaged
    that nothing could be scored ended it before.
    """

    findings: list[Finding]
    kinds: list[JudgedKind] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    lines: LineMeasurements | None = None
    losses: LossProfile | None = None
    leakage: Leakage | None = None

    @property
    def healthy(self) -> bool:
        """Tell whether no pathology was found."""
        return not self.findings


def refuse_fatal(findings: Iterable[Finding]) -> None:
    """Raise `UserError` for the first fatal finding: no threshold would mean anything."""
    for each in findings:
        if each.severity == "fatal":
            raise UserError(f"{each.title}: {each.seen} No threshold is written. {each.remedy} {DIAGNOSE}")


def judge_kind(
    kind: str, members: list[ScoredSession], calibration: KindCalibration | None, groups: Mapping[int, str]
) -> JudgedKind:
    """Return the sessions with the score that the bundle decides by, or else the one that calibration would choose."""
    truths = [each.truth for each in members]
    if calibration is not None:
        scales, scores_N = calibration.scales, _scores_by(calibration, members)
        combination, threshold, rate = calibration.combination, calibration.threshold, calibration.false_alarm_rate
        return _judged(kind, combination, scales, scores_N, members, truths, groups, threshold, rate)
    known = [each for each in members if each.truth is not None]
    normal = [each for each in known if not each.truth] or [each for each in members if not each.truth] or members
    all_scales = candidate_scales(normal)
    combination = COMBINED
    truth_N = np.array([each.truth for each in known], dtype=bool)
    if truth_N.any() and not truth_N.all():
        combination = choose_combination(figures_of(known, truth_N, all_scales))
    scales = all_scales[combination]
    return _judged(kind, combination, scales, scores_of(members, scales), members, truths, groups)


def judged_by(calibrated: CalibratedKind) -> JudgedKind:
    """Return a kind as its calibration judges it. Its threshold was just chosen for these sessions: it is left out."""
    truths: list[bool | None] = list(map(bool, calibrated.truth_N)) if calibrated.labelled else []
    members, scales = calibrated.sessions, calibrated.calibration.scales
    return _judged(
        calibrated.kind,
        calibrated.calibration.combination,
        scales,
        _scores_by(calibrated.calibration, members),
        members,
        truths or [None] * len(members),
        groups_of([each.session for each in members], None, None),
    )


def weight_findings(weights: Mapping[str, torch.Tensor], *, losses_broken: bool = False) -> list[Finding]:
    """Find weights that are not finite; where `losses_broken`, else those so large that they overflow."""
    broken = {name: int((~torch.isfinite(weight)).sum()) for name, weight in weights.items()}
    broken = {name: count for name, count in broken.items() if count}
    why = "Training diverged (a learning rate too high, or overflow in half precision), or a file was damaged before"
    remedy = "Train again, with a smaller --training.learning-rate; a copy of an older bundle also does."
    if broken:
        evidence = tuple(_damage(name, weights[name]) for name in broken)
        seen = f"{sum(broken.values()):,} weights in {len(broken)} of {len(weights)} tensors are not finite numbers"
        worst = max(broken, key=broken.__getitem__)
        seen += f", most of them in {worst} ({broken[worst]:,} of {weights[worst].numel():,})."
        return [Finding(DAMAGED_WEIGHTS, "fatal", "", seen, f"{why} the bundle was sealed.", remedy, evidence)]
    if not losses_broken:
        return []
    highest = {name: float(weight.detach().abs().max()) for name, weight in weights.items()}
    order = sorted(highest, key=highest.__getitem__, reverse=True)
    seen = (
        "All weights are finite, but the losses are not: they overflow. The largest weight is "
        f"{highest[order[0]]:.3g}, in {order[0]}."
    )
    evidence = tuple(f"{name}: largest weight {highest[name]:.3g}" for name in order[:SOME])
    return [Finding(DAMAGED_WEIGHTS, "fatal", "", seen, f"{why} the bundle was sealed.", remedy, evidence)]


def loss_findings(profile: LossProfile) -> list[Finding]:
    """Find losses that say nothing: all the same, those of guessing, or the same whatever came before."""
    if len(profile.losses_N) < _FEW_TOKENS or profile.lines < FEW:
        return []
    low, median, high = np.quantile(profile.losses_N, [0.01, 0.5, 0.99]).tolist()
    spread = f"the middle 98 % of {len(profile.losses_N):,} token losses lie between {low:.4g} and {high:.4g} nats"
    longer = "Train again until the validation loss no longer falls (see learning_curve.png of the training report)"
    if high - low <= ONE_LOSS_SPREAD * max(median, 1e-6):
        return [
            Finding(
                CONSTANT_LOSSES,
                "fatal",
                "",
                f"All lines cost the same: {spread}, over {profile.lines:,} distinct lines.",
                f"The weights are blank or saturated: the model gives every token the same probability (guessing among "
                f"{profile.vocabulary_size:,} costs {profile.guessing:.4g} nats), so a session's score only counts its "
                "tokens.",
                f"{longer}, with a smaller --training.learning-rate if it does not fall at all.",
            )
        ]
    found = []
    if median >= GUESSING * profile.guessing:
        found.append(
            Finding(
                UNTRAINED,
                "fatal",
                "",
                f"The median token costs {median:.4g} nats, and guessing among {profile.vocabulary_size:,} tokens "
                f"costs {profile.guessing:.4g}; {spread}.",
                "The model was not trained, or only for moments, or on quite other logs. What order its scores still "
                "have comes from how many tokens a line has, not from what it learned.",
                f"{longer}, on logs like these.",
            )
        )
    if profile.recurring >= _RECURRING and profile.unmoved > GUESSING * profile.recurring:
        found.append(
            Finding(
                CONTEXT_IGNORED,
                "fatal",
                "",
                f"{profile.unmoved:,} of {profile.recurring:,} lines that come again and again cost exactly the same "
                "each time, whatever came before them.",
                "The weights are saturated or dead: the prediction no longer depends on the session so far. A session "
                "is then only as odd as its lines, however wrong their order, and one that breaks off is not odd.",
                f"{longer}, with a smaller --training.learning-rate.",
            )
        )
    return found


def line_findings(measured: LineMeasurements) -> list[Finding]:
    """Find lines that the vocabulary does not hold, and those that are cut so that what differs in them is lost."""
    found = []
    pieces, cut = measured.in_pieces / measured.lines, measured.cut / measured.lines
    in_pieces = f"{measured.in_pieces:,} of {measured.lines:,} lines ({pieces:.1%}) are no token of their own"
    example = (f"in pieces, for example: {printable(measured.pieces_example)}",) if measured.pieces_example else ()
    if measured.full and pieces > LARGE_SHARE:
        found.append(
            Finding(
                VOCABULARY_FULL,
                "warning",
                "",
                f"The vocabulary of {measured.vocabulary_size:,} tokens is full, {measured.whole_tokens:,} of them "
                f"whole lines, and {in_pieces}, so they fall into pieces.",
                "Training had more lines than there was room for. A line in pieces costs a multiple of a whole one "
                "however ordinary it is, and is cut where it is long: ordinary sessions look odd, and odd ones alike.",
                "Train again with a larger --tokenizer.vocabulary-size; if masks leave ids or numbers in the lines, "
                "so that every line is new, mask them.",
                example,
            )
        )
    elif pieces > MOST:
        found.append(
            Finding(
                UNSEEN_LINES,
                "warning",
                "",
                f"{in_pieces}: the model never saw them in training"
                + ("." if measured.full is False else ", or its vocabulary had no room for them."),
                "These logs are not those that it was trained on: another service, release, log format or language, or "
                "ids and numbers that the masks leave in. Each such line costs about a hundred nats, and drowns the "
                "rest.",
                "Train on logs like these. Compare the example with a line of the training logs to see what differs.",
                example,
            )
        )
    if cut > CUT_SHARE:
        long_D = measured.lengths_D > measured.max_line_tokens
        lengths = np.repeat(measured.lengths_D[long_D], measured.times_D[long_D])
        found.append(
            Finding(
                CUT_LINES,
                "warning",
                "",
                f"{measured.cut:,} of {measured.lines:,} lines ({cut:.1%}) are cut at {measured.max_line_tokens} "
                f"tokens; uncut they have {np.median(lengths):.0f} in the median, {lengths.max():,} at most.",
                "Lines that are no token of their own are read in pieces, up to --tokenizer.max-line-tokens of them. "
                "What stands behind the cut is not seen.",
                "Train again with a larger --tokenizer.max-line-tokens, or a larger --tokenizer.vocabulary-size so "
                "that these lines become whole tokens.",
                (f"cut, for example: {printable(measured.cut_example)}",),
            )
        )
    if measured.alike >= SOME and measured.alike > CUT_SHARE * measured.sessions:
        found.append(
            Finding(
                CUT_ALIKE,
                "fatal" if measured.alike > MOST * measured.sessions else "warning",
                "",
                f"{measured.alike:,} of {measured.sessions:,} sessions that read differently are the same tokens as "
                f"another one, because lines are cut at {measured.max_line_tokens} tokens.",
                "They differ only behind the cut, where the model does not look: they cannot have different scores.",
                "Train again with a larger --tokenizer.max-line-tokens.",
                (f"cut, for example: {printable(measured.cut_example)}",) if measured.cut_example else (),
            )
        )
    return found


def kind_findings(judged: JudgedKind) -> list[Finding]:
    """Find what is wrong with the scores of one session kind: shared ones, the threshold's place, the labels."""
    return [*_identical(judged), *_beside_threshold(judged), *_against_labels(judged)]


def leakage_findings(leakage: Leakage, *, held_out: bool) -> list[Finding]:
    """Find sessions that the bundle was made with. `held_out`: those of validation were asked for."""
    found = []
    advice = "Diagnose, calibrate and evaluate on sessions of other logs, or choose them by --labels and --select."
    roles: list[tuple[str, str, Severity, str]] = [("train", TRAINED_ON, "fatal", "learned from")]
    if not held_out:
        roles.append(("validation", VALIDATED_ON, "warning", "was stopped by the loss of"))
        advice += " Give --held-out to look at exactly the sessions that the trainer held out."
    for role, name, severity, did in roles:
        keys = leakage.known[role]
        if keys:
            found.append(
                Finding(
                    name,
                    severity,
                    "",
                    f"{len(keys):,} of the {leakage.sessions:,} sessions are {role} sessions of this bundle.",
                    f"The model {did} them: they score lower than new sessions do, and figures from them flatter it.",
                    advice,
                    _some(keys),
                )
            )
    if leakage.groups:
        found.append(
            Finding(
                GROUP_ON_BOTH_SIDES,
                "warning",
                "",
                f"{len(leakage.groups):,} groups have sessions both among these and on another side of the split.",
                "Sessions of one run share its faults and its habits: a model that learned from some of them knows "
                "the others too well, and figures from them flatter it.",
                "Split by whole groups: loggpt-train --group-column, and one value of the split column for a group.",
                _some([f"{printable(group)}: {sides}" for group, sides in leakage.groups.items()]),
            )
        )
    return found


def explained(finding: Finding, cause: CommonCause) -> Finding:
    """Return a finding of identical scores with the line, token and place that give them, and what follows."""
    first, last = cause.places
    where = f"line {first}" if first == last else f"lines {first} to {last}"
    cut = cause.uncut_tokens > cause.line_tokens
    worst = f"{cause.agreeing} of {cause.sessions} sessions scored again have one most surprising line"
    costs = f"token {cause.token_place} of {cause.line_tokens} in it costs most ({cause.token_loss:.6g} nats)"
    evidence = [
        f"{worst} ({cause.line_loss:.6g} nats, {where} of the session): {printable(cause.line)}",
        f"{costs}: {printable(cause.token)}",
        f"raw: {printable(cause.raw)}",
    ]
    if cut:
        evidence.append(
            f"the line has {cause.uncut_tokens} tokens and is cut at {cause.line_tokens}; {cause.texts} different "
            "lines are these same tokens"
        )
    if cause.alike:
        why = "These sessions are the same tokens from end to end: what differs between them stands behind the cut."
    elif cause.agreeing <= MOST * cause.sessions:
        why = f"{finding.why} No single line gives the score: their most surprising lines differ."
    elif cut:
        why = (
            "The score comes from one line that is unknown to the tokenizer and cut to the same tokens in all of them, "
            "so whatever else these sessions hold, they are one to the model."
        )
    else:
        why = (
            "The score comes from one and the same token of one and the same line, so whatever else these sessions "
            "hold, they are one to the model."
        )
    return replace(finding, why=why, evidence=(*evidence, *finding.evidence))


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, fatal ones first."""
    return sorted(findings, key=lambda each: each.severity != "fatal")


def _scores_by(calibration: KindCalibration, members: Sequence[ScoredSession]) -> np.ndarray:
    return np.array([calibration.score(each.statistics) for each in members])


def _judged(  # noqa: PLR0917 - its callers give the fields in order
    kind: str,
    combination: str,
    scales: Mapping[str, AnyScale],
    scores_N: np.ndarray,
    members: list[ScoredSession],
    truths: list[bool | None],
    groups: Mapping[int, str],
    threshold: float | None = None,
    rate: float | None = None,
) -> JudgedKind:
    of_model = {name: scale for name, scale in scales.items() if name in FROM_MODEL} or scales
    model_N = scores_of(members, of_model)
    groups_N = [groups[each.session.fingerprint()] for each in members]
    return JudgedKind(kind, combination, members, scores_N, model_N, truths, groups_N, threshold, rate)


def _identical(judged: JudgedKind) -> list[Finding]:
    everything, anomalous = np.arange(len(judged.sessions)), judged.anomalous
    fallback = "The model does not see what differs between these sessions."
    # Of the anomalous alone a few may fail in one way and read nearly alike: only most of them are a pathology.
    for indices, what, limit in ((anomalous, "anomalous sessions", MOST), (everything, "sessions", 0.0)):
        if not indices.size:
            continue
        shared = judged.shared(indices)
        if is_collapsed(shared) and shared.share > limit and shared.distinct >= SOME:
            same = [i for i in indices if same_score(judged.model_N[i]) == same_score(shared.score)]
            sharing = list({judged.sessions[i].content: judged.sessions[i] for i in same}.values())
            flagged = judged.threshold is not None and bool((judged.scores_N[same] > judged.threshold).all())
            normal = judged.normal
            seen = (
                f"{shared.sharing:,} of {shared.distinct:,} {what} that read differently ({shared.share:.1%}) have one "
                f"score, {shared.score:.6g} nats on the combination {judged.combination}."
            )
            if flagged and normal.size and (judged.scores_N[normal] > (judged.threshold or 0.0)).all():
                seen += f" And no true negative: all {normal.size:,} normal sessions are above the threshold."
            return [
                Finding(
                    IDENTICAL_SCORES,
                    "fatal",
                    judged.kind,
                    seen,
                    fallback,
                    "Train again with a larger --tokenizer.max-line-tokens and --tokenizer.vocabulary-size where lines "
                    "are cut, else with more sessions and until the validation loss no longer falls; then calibrate "
                    "again, so that a statistic that they do not share decides.",
                    sharing=tuple(sharing),
                )
            ]
    return []


def _beside_threshold(judged: JudgedKind) -> list[Finding]:
    if judged.threshold is None or judged.false_alarm_rate is None:
        return []
    above_N = judged.scores_N > judged.threshold
    normal, anomalous = judged.normal, judged.anomalous
    place = (
        f"The threshold is {judged.threshold:.6g} nats on {judged.combination}, the scores run from "
        f"{judged.scores_N.min():.6g} to {judged.scores_N.max():.6g}"
    )
    again = "Calibrate again on newer sessions like these; if the findings on lines above stand, train again first."
    those = normal if normal.size else np.flatnonzero([truth is None for truth in judged.truths])
    if len(those) >= SOME and above_N[those].all():
        what = "normal sessions" if normal.size else "sessions"
        return [
            Finding(
                ALL_ABOVE,
                "fatal",
                judged.kind,
                f"All {len(those):,} {what} are above the threshold, where {judged.false_alarm_rate:.2%} was promised: "
                f"no true negative. {place}.",
                "The threshold was made for other scores: normal behaviour or the log format has changed since "
                "calibration, or calibration had none but odd sessions.",
                again,
            )
        ]
    missed = anomalous.size > 0 and not above_N[anomalous].any()
    expected = judged.false_alarm_rate * len(judged.sessions)
    if not above_N.any() and (missed or expected >= EXPECTED_ALERTS):
        seen = f"None of {len(judged.sessions):,} sessions is above the threshold"
        seen += f", {anomalous.size:,} anomalous ones among them." if missed else f"; {expected:.0f} were expected."
        return [
            Finding(
                ALL_BELOW,
                "fatal" if anomalous.size >= SOME else "warning",
                judged.kind,
                f"{seen} {place}.",
                "A failure among the sessions that calibration took as normal lifts the threshold above everything; so "
                "does a false-alarm rate finer than its sessions support, or a high cost of false alarms.",
                "Look at the highest scores in calibration_report.md: take failures out, calibrate with more sessions, "
                "or ask for a greater --false-alarm-rate.",
            )
        ]
    return []


def _against_labels(judged: JudgedKind) -> list[Finding]:
    normal, anomalous = judged.normal, judged.anomalous
    if not (normal.size and anomalous.size):
        return []
    enough = min(normal.size, anomalous.size) >= FEW
    deciding, of_model = _auc(judged, judged.scores_N), _auc(judged, judged.model_N)
    # The model alone counts only where what decides is not clearly right side up.
    either = (deciding, of_model) if deciding[0] < POOR_AUC else (deciding,)
    upside_down = next((each for each in either if each[2] < CHANCE), None)
    counted = f"{normal.size:,} normal and {anomalous.size:,} anomalous sessions"
    if upside_down and enough:
        auc, low, high = upside_down
        return [
            Finding(
                INVERTED,
                "fatal",
                judged.kind,
                f"Anomalous sessions score lower than normal ones: AUC-ROC {auc:.3f} [{low:.3f}, {high:.3f}] over "
                f"{counted}, where chance is 0.5.",
                "The labels say the opposite of what they should (1 for good, 0 for bad), or belong to other sessions; "
                "or the model was trained on failures and finds them ordinary.",
                "Check --anomaly-column: 1 has to mean anomalous. Check what was trained on (loggpt-train --exclude "
                "failed=1).",
            )
        ]
    auc, low, high = deciding
    if auc < POOR_AUC:
        chance = low <= CHANCE
        return [
            Finding(
                OVERLAP,
                "fatal" if chance and enough else "warning",
                judged.kind,
                f"AUC-ROC {auc:.3f} [{low:.3f}, {high:.3f}] over {counted}, on {judged.combination}: "
                + ("no better than chance." if chance else "they overlap widely."),
                "The scores do not follow the labels: the labels may be of other sessions, the failures may leave no "
                "trace in these lines, or the model has not learned enough to see it.",
                "Check that the labels belong to these sessions; look whether the lines of a failed one differ at all; "
                "then train longer or on more normal sessions.",
            )
        ]
    return _flipped(judged)


def _flipped(judged: JudgedKind) -> list[Finding]:
    """Find sessions that score like the middle of the other class, where the scores tell the classes apart."""
    normal, anomalous, scores_N = judged.normal, judged.anomalous, judged.scores_N
    low, high = float(np.median(scores_N[normal])), float(np.median(scores_N[anomalous]))
    quiet = anomalous[scores_N[anomalous] <= low]
    loud = normal[scores_N[normal] >= high]
    suspects, labelled = quiet.size + loud.size, normal.size + anomalous.size
    if suspects < SOME or suspects <= FLIPPED_SHARE * labelled:
        return []
    listed = [
        *(f"{_called(judged, i)}: labelled normal, score {scores_N[i]:.4g}" for i in loud[np.argsort(-scores_N[loud])]),
        *(f"{_called(judged, i)}: labelled anomalous, score {scores_N[i]:.4g}" for i in quiet),
    ]
    return [
        Finding(
            FLIPPED,
            "warning",
            judged.kind,
            f"{suspects} of {labelled} labels ({suspects / labelled:.1%}) look flipped: {loud.size} sessions labelled "
            f"normal score above the median of the anomalous ({high:.4g} nats), {quiet.size} labelled anomalous below "
            f"the median of the normal ones ({low:.4g} nats).",
            "Wrong labels, or labels joined to the wrong sessions. Failures that leave no trace in the lines, and "
            "normal sessions that noise made odd, look the same.",
            "Look at the sessions listed, and mend the labels that are wrong; a threshold by F1 follows them.",
            _some(listed),
        )
    ]


def _auc(judged: JudgedKind, scores_N: np.ndarray) -> tuple[float, float, float]:
    """Return AUC-ROC with its bootstrap interval (low, high), over the labelled sessions."""
    known = np.flatnonzero([truth is not None for truth in judged.truths])
    truth_N = np.array([judged.truths[i] for i in known], dtype=bool)
    groups = [judged.groups_N[i] for i in known]
    metrics = detection_metrics(scores_N[known], truth_N, 0.0, groups)
    auc = metrics.auc_roc if metrics.auc_roc is not None else 0.5
    return (auc, *metrics.intervals.get("auc_roc", (0.0, 1.0)))


def _damage(name: str, weight: torch.Tensor) -> str:
    places = torch.nonzero(~torch.isfinite(weight))
    return f"{name}: {len(places):,} of {weight.numel():,} not finite, first at {places[0].tolist()}"


def _called(judged: JudgedKind, index: int) -> str:
    session = judged.sessions[index].session
    return printable(session.key) + (f" part {session.part}" if session.part else "")


def _some(texts: Sequence[str]) -> tuple[str, ...]:
    more = (f"and {len(texts) - _SHOWN:,} more",) if len(texts) > _SHOWN else ()
    return (*texts[:_SHOWN], *more)
