"""Who holds a lock: this process, another one, or one that is dead."""

from __future__ import annotations

import os
import platform

STALE_AFTER = 90.0
"""Seconds without a heartbeat after which a lock's owner counts as dead (at once if its process is gone)."""


def me() -> tuple[str, int]:
    return platform.node(), os.getpid()


def is_dead(host: str, pid: int, age: float) -> bool:
    """A lock's owner is dead when its process is gone (on this machine) or it has been silent too long."""
    if age > STALE_AFTER:
        return True
    if host != platform.node() or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
