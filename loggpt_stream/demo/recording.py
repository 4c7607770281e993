"""The recording that ships with the package, and what really happened in it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

_DATA: Final = Path(str(files("loggpt_stream"))) / "data" / "nova34"
RECORDING: Final = _DATA / "nova34.log.xz"
LABELS: Final = _DATA / "nova34.labels.csv"
