"""The daemon as a process: from its settings to its exit code."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

from loggpt_stream.daemon.service import Daemon
from loggpt_stream.errors import UserError
from loggpt_stream.lines.shapes import known_shape
from loggpt_stream.logs import configure
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.model.detector import Detector
from loggpt_stream.model.gpt import choose_device
from loggpt_stream.process import run_until_signalled
from loggpt_stream.program import tell_mistake

if TYPE_CHECKING:
    from loggpt_stream.daemon.settings import DaemonSettings


def run_daemon(settings: DaemonSettings) -> int:
    """Run the daemon until SIGTERM or SIGINT; return the exit code. Raises `UserError` for what the user can mend."""
    configure(settings.log_format, settings.log_level)
    # Sessions are many long-lived objects without cycles: Python's default would look for garbage 14 times as often.
    gc.set_threshold(10_000, 10, 10)
    bundle = load_bundle(settings.bundle, key=settings.bundle_key)
    device = choose_device(settings.device)
    shape = known_shape(settings.shape)
    daemon = Daemon(settings, Detector.load(bundle, device, batch_tokens=settings.batch_tokens, shape=shape))
    try:
        code = run_until_signalled(daemon.run, failed="daemon_failed")
    except UserError as error:
        if not daemon.scorer_busy:
            raise
        code = tell_mistake(error)
    if daemon.scorer_busy:
        os._exit(code)  # a thread cannot be ended, and one that hangs would be waited for
    return code
