"""`loggpt-stream replay`: score files offline through the daemon's own code."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, Field
from pydantic_settings import CliPositionalArg

from loggpt_stream.alerts.alert import AlertWriter, JudgedSession
from loggpt_stream.daemon.early import SETTLE_S
from loggpt_stream.history.corpus import closed_sessions
from loggpt_stream.history.files import Reading, read_events
from loggpt_stream.lines.names import Fate
from loggpt_stream.lines.shapes import known_shape
from loggpt_stream.logs import configure, shown_json
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.model.calibration import Judge
from loggpt_stream.model.drift import DriftMode
from loggpt_stream.model.early import first_alarm, new_unseen
from loggpt_stream.model.gpt import choose_device
from loggpt_stream.model.line_frequencies import EMPTY
from loggpt_stream.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.calibration import EarlyCalibration
    from loggpt_stream.model.scoring import Scorer

_DESCRIPTION: Final = """\
Score recorded log files offline, through the same code as the daemon, and write alerts as JSON lines.

  loggpt-stream replay --bundle bundle nova-compute.log nova-api.log.gz      alerts on standard output
  loggpt-stream replay --bundle bundle --out alerts.jsonl --scores scores.jsonl /var/log/nova/
  xzcat day.log.xz | loggpt-stream replay --bundle bundle -

Several files are merged by time. At the end of the input every open session closes (close reason end_of_input)."""

_BATCH_SESSIONS: Final = 256


class ReplaySettings(Settings):
    """Settings of `loggpt-stream replay`."""

    inputs: CliPositionalArg[list[str]] = Field([], description="log files, directories of them, or - for stdin")
    bundle: Path = Field(Path("bundle"), description="calibrated bundle: a directory made by loggpt-calibrate")
    out: Path | None = Field(None, description="file for the alerts, one JSON object a line (standard output)")
    scores: Path | None = Field(None, description="file for the score of every session, one JSON object a line (none)")
    input_topic: str = Field("openstack-logs", description="topic name that goes into the alerts and their ids")
    shape: Annotated[str | None, AfterValidator(known_shape)] = Field(
        None, description="pin the record shape instead of recognising each record"
    )
    cluster: str = Field("openstack", description="name of this cloud, in the alerts")
    device: str = Field("auto", description="auto (CUDA if there is one, else CPU), cpu, cuda or cuda:N")
    batch_tokens: int = Field(8192, ge=64, description="a scoring batch holds at most so many tokens")
    early: bool = Field(False, description="write early alerts too, each before the final one of its session")  # noqa: FBT003 - a default
    drift: DriftMode = Field(DriftMode.OFF, description="let thresholds follow drift, as the daemon may: adapt; or off")


def main(argv: Sequence[str]) -> int:
    """Replay the named files; return the exit code."""
    settings = load(ReplaySettings, argv, prog="loggpt-stream replay", description=_DESCRIPTION)
    configure()
    bundle = load_bundle(settings.bundle)
    reading, fates, verdicts = Reading(), Counter[Fate](), Counter[str]()
    events = read_events(settings.inputs, reading, shape=known_shape(settings.shape))
    sessions = closed_sessions(events, bundle.preprocessing.session_rules, bundle.preprocessing.mask_rules, fates)
    scorer = bundle.scorer(choose_device(settings.device), batch_tokens=settings.batch_tokens)
    writer = AlertWriter(bundle, settings.cluster)
    started_s = time.monotonic()
    with ExitStack() as stack:
        out: IO[bytes] = stack.enter_context(settings.out.open("wb")) if settings.out else sys.stdout.buffer
        show = shown_json if out.isatty() else bytes
        scores = stack.enter_context(settings.scores.open("wb")) if settings.scores else None
        for judged, opened in judge_sessions(
            sessions, bundle, scorer, settings.input_topic, settings.drift, early=settings.early
        ):
            if opened:
                created_s = opened.session.lines[-1].time_s + SETTLE_S
                out.write(show(writer.alert(opened, created_s).value) + b"\n")
                judged.session.announced_s = created_s
            verdicts[judged.verdict.name] += 1
            if judged.verdict.anomalous:
                out.write(show(writer.alert(judged, time.time()).value) + b"\n")
            if scores:
                scores.write(writer.score_record(judged).value + b"\n")
    took_s = time.monotonic() - started_s
    print(
        f"{reading.records} records, {sum(verdicts.values())} sessions in {took_s:.1f} s: "
        + ", ".join(f"{count} {name}" for name, count in sorted(verdicts.items()))
        + f"; lines {dict(fates)}"
        + (f"; not decoded {dict(reading.rejected)}" if reading.rejected else ""),
        file=sys.stderr,
    )
    return 0


def judge_sessions(
    sessions: Iterable[Session], bundle: Bundle, scorer: Scorer, topic: str, drift: DriftMode, *, early: bool
) -> Iterator[tuple[JudgedSession, JudgedSession | None]]:
    """Yield every session scored and judged, in order, as from partition 0 of `topic`, and its `early` alert."""
    if bundle.calibration is None:
        raise ValueError("judging needs a calibrated bundle")
    judge = Judge(bundle.calibration, drift)
    for batch in _batches(sessions):
        for session, score in zip(batch, scorer.score(batch), strict=True):
            threshold = judge.early(session.kind) if early else None  # before this session teaches it
            verdict = judge.judge(session.kind, score.statistics, late=session.late)
            judged = JudgedSession(topic, 0, session, score, verdict)
            yield judged, early_alert(judged, threshold, scorer)


def early_alert(judged: JudgedSession, early: EarlyCalibration | None, scorer: Scorer) -> JudgedSession | None:
    """Return the session as it was with the line that passed the early threshold, as the daemon would announce it.

    The daemon looks every few seconds, and so may see some lines more. None where it never passed.
    """
    session = judged.session
    if early is None or session.late:
        return None
    unseen_L = new_unseen(session.texts, scorer.line_frequencies.get(session.kind, EMPTY))
    index = first_alarm(judged.score.line_losses_L, unseen_L, early)
    if index is None:
        return None
    so_far = replace(session, lines=session.lines[: index + 1])
    (score,) = scorer.score([so_far])
    score = replace(score, statistics={name: score.statistics[name] for name in early.scales})
    verdict = early.judge(score.statistics)
    return replace(judged, session=so_far, score=score, verdict=verdict, stage="early")


def _batches(sessions: Iterable[Session]) -> Iterator[list[Session]]:
    batch: list[Session] = []
    for session in sessions:
        batch.append(session)
        if len(batch) == _BATCH_SESSIONS:
            yield batch
            batch = []
    if batch:
        yield batch
