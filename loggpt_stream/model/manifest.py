"""Whether there is a bundle at all: apart from loading it, so that a wrong path is told before PyTorch is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loggpt_stream.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST: Final = "loggpt.json"


def require_bundle(path: Path) -> None:
    """Raise `BundleError` where there is no bundle."""
    try:
        (path / MANIFEST).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"There is no bundle at {path} (no {MANIFEST}). Run: loggpt-train --out {path} INPUT"
        ) from None
    except OSError as error:
        raise BundleError(f"{path / MANIFEST} cannot be read ({error}).") from None
