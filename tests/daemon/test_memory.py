"""Memory that goes back to the system."""

from __future__ import annotations

import os
from pathlib import Path

from loggpt_stream.daemon.memory import give_back_memory


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_memory_that_was_freed_between_blocks_in_use_goes_back_to_the_system() -> None:
    # Too large for Python's own allocator, and of 80 MB every fiftieth stays.
    texts = [bytearray(2_000) for _ in range(40_000)]
    kept = texts[::50]
    del texts
    before_mb = rss_mb()
    give_back_memory()
    assert rss_mb() < before_mb - 40
    assert len(kept) == 800
