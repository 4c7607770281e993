"""Log files through the daemon's own code, offline: alerts and scores as JSON lines."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING

from loggpt_stream.alerts.alert import AlertWriter
from loggpt_stream.daemon.early import SETTLE_S
from loggpt_stream.history.corpus import closed_sessions
from loggpt_stream.history.files import Reading, read_events
from loggpt_stream.lines.names import Fate
from loggpt_stream.lines.shapes import known_shape
from loggpt_stream.logs import configure
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.model.detector import Detector
from loggpt_stream.model.gpt import choose_device
from loggpt_stream.replay.judge import judge_sessions
from loggpt_stream.terminal import shown_json

if TYPE_CHECKING:
    from loggpt_stream.replay.settings import ReplaySettings


def replay(settings: ReplaySettings) -> None:
    """Judge the sessions of the named files, and write what was asked for. Raises `UserError`."""
    configure()
    bundle = load_bundle(settings.bundle)
    reading, fates, verdicts = Reading(), Counter[Fate](), Counter[str]()
    events = read_events(settings.inputs, reading, shape=known_shape(settings.shape))
    sessions = closed_sessions(events, bundle.preprocessing.session_rules, bundle.preprocessing.mask_rules, fates)
    detector = Detector.load(bundle, choose_device(settings.device), batch_tokens=settings.batch_tokens)
    writer = AlertWriter(detector, settings.cluster)
    started_s = time.monotonic()
    with ExitStack() as stack:
        out: IO[bytes] = stack.enter_context(settings.out.open("wb")) if settings.out else sys.stdout.buffer
        show = shown_json if out.isatty() else bytes
        scores = stack.enter_context(settings.scores.open("wb")) if settings.scores else None
        for judged, opened in judge_sessions(
            sessions, detector, settings.input_topic, settings.drift, early=settings.early
        ):
            if opened:
                created_s = opened.session.lines[-1].time_s + SETTLE_S
                out.write(show(writer.alert(opened, created_s).value) + b"\n")
                judged.session.announced_s = created_s
            verdicts[judged.verdict.outcome] += 1
            if judged.alarms:
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
