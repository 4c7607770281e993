"""The programs that the reference describes, each with its settings class and its entry point.

This is the one place that knows where they are: when a command gets other settings, change its line here.
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from pydantic import BaseModel

    from loggpt_stream.kafka.metrics import LabelValues


@dataclass(frozen=True, slots=True)
class Program:
    """A command.

    name: as it is typed. settings: `module:class`, or "" where it has none of its own. main: `module:function`, which
    takes the words after the first one.
    """

    name: str
    settings: str
    main: str

    def settings_class(self) -> type[BaseModel] | None:
        """Return the class of its settings."""
        loaded: type[BaseModel] | None = _load(self.settings) if self.settings else None
        return loaded

    def help(self) -> str:
        """Return what `--help` prints, the same with every version of Python.

        A long usage is left out: it lists the flags that are described below it, and each version wraps it in its own
        way. Of a flag with two names, older versions repeat the value behind each.
        """
        out = io.StringIO()
        main = _load(self.main)
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([*self.name.split()[1:], "--help"])
        text = out.getvalue().strip()
        usage, _, rest = text.partition("\n\n")
        if usage.startswith("usage:") and "\n" in usage:
            text = f"usage: {self.name} [flags]\n\n{rest}"
        return re.sub(r"(--[\w.-]+) (\S+), (--[\w.-]+) \2", r"\1, \3 \2", text)


_STREAM: Final = "loggpt_stream.cli:main"
_CALIBRATE: Final = "calibrate.cli:main"
# In the order of the pages: of several commands that take a setting, the first describes it.
PROGRAMS: Final = (
    Program("loggpt-stream", "", _STREAM),
    Program("loggpt-stream run", "loggpt_stream.daemon.settings:DaemonSettings", _STREAM),
    Program("loggpt-stream route", "loggpt_stream.route.settings:RouteCommand", _STREAM),
    Program("loggpt-stream doctor", "loggpt_stream.checks.settings:DoctorSettings", _STREAM),
    Program("loggpt-stream dead-letters", "", _STREAM),
    Program("loggpt-stream dead-letters list", "loggpt_stream.dead_letters.settings:ListSettings", _STREAM),
    Program("loggpt-stream dead-letters explain", "loggpt_stream.dead_letters.settings:PickSettings", _STREAM),
    Program("loggpt-stream dead-letters reinject", "loggpt_stream.dead_letters.settings:ReinjectSettings", _STREAM),
    Program("loggpt-train", "trainer.settings:TrainerSettings", "trainer.cli:main"),
    Program("loggpt-calibrate", "calibrate.settings:CalibrateSettings", _CALIBRATE),
    Program("loggpt-calibrate evaluate", "calibrate.settings:EvaluateSettings", _CALIBRATE),
    Program("loggpt-calibrate diagnose", "calibrate.settings:DiagnoseSettings", _CALIBRATE),
    Program("loggpt-stream replay", "loggpt_stream.replay.settings:ReplaySettings", _STREAM),
    Program("loggpt-stream simulate", "loggpt_stream.simulator.settings:SimulateSettings", _STREAM),
    Program("loggpt-stream demo", "loggpt_stream.demo.settings:DemoSettings", _STREAM),
    Program("loggpt-stream completion", "", _STREAM),
)


@dataclass(frozen=True, slots=True)
class Exporter:
    """A program that serves metrics.

    port: the setting's default. metrics: `module:class`; `LABEL_VALUES` stands beside it.
    """

    name: str
    port: int
    metrics: str

    def registry(self) -> CollectorRegistry:
        """Return its metrics, all at zero."""
        registry: CollectorRegistry = _load(self.metrics)().registry
        return registry

    def label_values(self) -> dict[str, LabelValues]:
        """Return what the labels of its metrics mean, by metric."""
        values: dict[str, LabelValues] = _load(f"{self.metrics.partition(':')[0]}:LABEL_VALUES")
        return values


EXPORTERS: Final = (
    Exporter("loggpt-stream run", 9464, "loggpt_stream.daemon.metrics:Metrics"),
    Exporter("loggpt-stream route", 9465, "loggpt_stream.route.metrics:RouteMetrics"),
)


def _load(where: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a class, a function or a table
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)
