"""Memory that is free goes back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc's `malloc_trim`); tens of milliseconds.

    By itself glibc returns only what lies above the highest block that is in use. What is built anew beside what it
    replaces, as the sessions of a partition that was lost and came back, leaves holes below that add up.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
