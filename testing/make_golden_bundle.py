"""A tiny bundle of each released version, alerts that it wrote, and their schema: tests/golden/{bundle,alerts,alert}*.

    python -m testing.make_golden_bundle             # writes what is missing, with the code of the released version

Made once, by that version's own code; whatever is in them, operators have it too.
"""

from __future__ import annotations

import io
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.resources import files
from pathlib import Path

from testing.make_golden_state import GOLDEN, RELEASES

_MAKE_BUNDLE = """
import sys
from pathlib import Path
from tests.tiny_bundle import tiny_bundle
tiny_bundle(Path(sys.argv[1]), early_share=0.2)
"""
_LINES = 6_000
_ALERTS = 24


def golden_bundle(version: str, folder: Path) -> Path:
    """Unpack the bundle that a released version wrote, and return where it is."""
    with tarfile.open(GOLDEN / f"bundle-{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "bundle"


def _make(version: str, commit: str, folder: Path) -> None:
    code = folder / "code"
    packed = subprocess.run(["git", "archive", commit], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(code, filter="data")
    environment = {**os.environ, "PYTHONPATH": str(code)}
    bundle, log, alerts = (folder / name for name in ("bundle", "nova.log", "alerts.jsonl"))
    subprocess.run([sys.executable, "-c", _MAKE_BUNDLE, str(bundle)], check=True, cwd=code, env=environment)
    recording = lzma.decompress((files("loggpt_stream") / "data/nova34/nova34.log.xz").read_bytes())
    log.write_bytes(b"\n".join(recording.splitlines()[:_LINES]) + b"\n")
    replay = ["replay", "--bundle", str(bundle), "--out", str(alerts), "--early", str(log)]
    subprocess.run([sys.executable, "-m", "loggpt_stream", *replay], check=True, cwd=code, env=environment)

    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as target:
        for file in sorted(bundle.iterdir()):
            entry = tarfile.TarInfo(f"bundle/{file.name}")
            entry.size = file.stat().st_size
            target.addfile(entry, io.BytesIO(file.read_bytes()))
    _pack(GOLDEN / f"bundle-{version}.tar.xz", tarred.getvalue())
    written = alerts.read_bytes().splitlines()
    early = [line for line in written if b'"stage":"early"' in line]
    final = [line for line in written if line not in early]
    some = [*early[: _ALERTS // 2], *final[: _ALERTS // 2]]
    _pack(GOLDEN / f"alerts-{version}.jsonl.xz", b"\n".join(some) + b"\n")
    schema = (code / "loggpt_stream" / "daemon" / "alert.schema.json").read_bytes()
    (GOLDEN / f"alert.schema-{version}.json").write_bytes(schema)


def _pack(path: Path, content: bytes) -> None:
    path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


def main() -> None:
    """Write what is missing."""
    for version, commit in RELEASES.items():
        if not (GOLDEN / f"bundle-{version}.tar.xz").exists():
            with tempfile.TemporaryDirectory() as folder:
                _make(version, commit, Path(folder))


if __name__ == "__main__":
    main()
