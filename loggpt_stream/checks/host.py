"""What the doctor finds on this machine: bundle, device, port."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.finding import Finding, Level
from loggpt_stream.model.manifest import require_bundle

if TYPE_CHECKING:
    from loggpt_stream.daemon.settings import DaemonPlacement
    from loggpt_stream.model.bundle import Bundle


def check_bundle(settings: DaemonPlacement) -> tuple[Finding, Bundle | None]:
    """Return the finding on the bundle, and the bundle where it can be loaded."""
    try:
        require_bundle(settings.bundle)
        from loggpt_stream.model.bundle import load_bundle  # noqa: PLC0415 - it loads PyTorch: not for a wrong path

        bundle = load_bundle(settings.bundle, key=settings.bundle_key)
    except UserError as error:
        return Finding("bundle", Level.FAILURE, str(error)), None
    kinds = ", ".join(
        f"{kind}: {each.combination} > {each.threshold:.2f}, false alarms {each.false_alarm_rate:.2%}"
        for kind, each in (bundle.calibration.kinds if bundle.calibration else {}).items()
    )
    return Finding("bundle", Level.OK, f"{settings.bundle} model {bundle.model_fingerprint} ({kinds})"), bundle


def check_device(settings: DaemonPlacement) -> Finding:
    """Return the finding on the device that scores."""
    from loggpt_stream.model.gpt import choose_device  # noqa: PLC0415 - it loads PyTorch: after the first findings

    try:
        return Finding("device", Level.OK, str(choose_device(settings.device)))
    except UserError as error:
        return Finding("device", Level.FAILURE, str(error))


def check_port(settings: DaemonPlacement) -> Finding:
    """Return the finding on the port of metrics and health."""
    where = f"{settings.http_port} on {settings.http_host}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.http_host, settings.http_port))
        except OSError as error:
            return Finding(
                "http port",
                Level.FAILURE,
                f"{where}: {error.strerror}",
                "stop what listens there, or choose another with --http-port (the daemon itself may be there)",
            )
    free = f"{where} is free" if settings.http_port else f"any free one on {settings.http_host}"
    return Finding("http port", Level.OK, free)
