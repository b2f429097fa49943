"""The structured log of a run: JSON lines under .resettle/logs, readable by their owner, without values."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from resettle import private

LOGGER = logging.getLogger("resettle")


def open_log(root: Path, command: str, *, verbose: bool) -> Path:
    """Start the log of one command; ``verbose`` also repeats it on stderr. Gives its path."""
    folder = private.folder(private.folder(root / ".resettle") / "logs")
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{command}-{os.getpid()}.jsonl"
    handler = _Log(os.fdopen(private.new(path), "w", encoding="utf-8"))
    handler.setFormatter(_Lines())
    LOGGER.handlers = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(logging.DEBUG if verbose else logging.INFO)
    if verbose:
        LOGGER.addHandler(logging.StreamHandler())
    return path


def event(message: str, /, **facts: object) -> None:
    """One line: what happened, and its facts (names and counts, never values)."""
    LOGGER.info(message, extra={"facts": facts})


class _Log(logging.StreamHandler[TextIO]):
    """Where it cannot be written, as on a full disk, it says so once, and the command goes on."""

    broken = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self.broken:
            self.broken = True
            reason = getattr(sys.exc_info()[1], "strerror", None) or "it cannot be written"
            sys.stderr.write(f"the log of this run is not whole: {reason}\n")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": datetime.now(UTC).isoformat(), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | getattr(record, "facts", {}), default=str)
