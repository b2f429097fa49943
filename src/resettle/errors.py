"""Every error resettle raises; the class of an error is the decision what to do about it.

    ResettleError
      ConfigError                  wrong before any I/O, or asked wrongly            exit 2
        MappingError               in a migration's files, with file:line:column
      ConnectorError               raised by connectors (through calls.py) only
        AccessError                not allowed in: the run stops at once             exit 6
        TransientError             worth another try: only `Caller` catches it       exit 1
        RejectedError              this data, never: the batch is isolated           exit 1
        CorruptError               the source's bytes are not what they claim        exit 1
      LedgerError                  our memory cannot be used                         exit 1
        LedgerVersionError         written by a newer resettle                       exit 2
        LockedError                another run holds the migration                   exit 7
        FenceError                 this run was thought dead and replaced            exit 7
        BalanceError               the run's equation does not hold                  exit 1
      PlanError                    a saved plan cannot be used                       exit 5
        StalePlanError             source, target or mapping changed since           exit 5

A row's trouble is data (a hold with its reason), never an exception past the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class ResettleError(Exception):
    """What happened, and (``hint``) what to do next. Never carries a record's values."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class ConfigError(ResettleError):
    """The declaration, the settings or the command line are wrong; nothing was touched."""

    exit_code = 2


@dataclass(frozen=True)
class Place:
    """Where in a migration's files something is written; line and column count from 1."""

    path: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


class MappingError(ConfigError):
    """A migration's files are wrong at ``place``: what was found, what was expected, a suggestion.

    ``others`` are the faults that were found beside it.
    """

    def __init__(self, place: Place | None, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{place}: {message}" if place else message, hint=hint)
        self.place = place
        self.others: tuple[MappingError, ...] = ()


def raise_together(wrong: Iterable[MappingError]) -> None:
    """Raise the first of them with the others beside it; nothing where there is none."""
    found = tuple(wrong)
    if found:
        found[0].others = found[1:]
        raise found[0]


class ConnectorError(ResettleError):
    """Trouble with a service; ``connection`` is the name the migration gives it."""

    def __init__(self, message: str, *, connection: str = "", hint: str | None = None) -> None:
        super().__init__(f"{connection}: {message}" if connection else message, hint=hint)
        self.connection = connection

    def of(self, connection: str) -> Self:
        """This error, as trouble of that connection where it does not name one."""
        if connection and not self.connection:
            self.connection, self.message = connection, f"{connection}: {self.message}"
            self.args = (self.message,)
        return self


class AccessError(ConnectorError):
    """Credentials are wrong or lack a permission; retrying cannot help, the run stops."""

    exit_code = 6


class TransientError(ConnectorError):
    """Worth another try, not sooner than ``retry_after`` seconds where the service said so."""

    def __init__(
        self,
        message: str,
        *,
        connection: str = "",
        hint: str | None = None,
        retry_after: float | None = None,
        throttled: bool = False,
    ) -> None:
        super().__init__(message, connection=connection, hint=hint)
        self.retry_after = retry_after
        self.throttled = throttled


class RejectedError(ConnectorError):
    """The target refuses this data for good; ``reason`` is one word, ``detail`` names no value."""

    def __init__(self, reason: str, detail: str = "", *, connection: str = "") -> None:
        super().__init__(f"refused: {reason} {detail}".rstrip(), connection=connection)
        self.reason = reason
        self.detail = detail


class CorruptError(ConnectorError):
    """The source's bytes contradict themselves: a wrong checksum, a broken archive, half a line."""


class LedgerError(ResettleError):
    """The ledger cannot be read or written."""


class LedgerVersionError(LedgerError):
    """The ledger was written by a newer resettle than this one."""

    exit_code = 2


class LockedError(LedgerError):
    """Another run of this migration and environment holds the lock."""

    exit_code = 7


class FenceError(LedgerError):
    """This run's lock was taken over; it must not write any more."""

    exit_code = 7


class BalanceError(LedgerError):
    """A run's records do not add up: read = done + unchanged + partial + skipped + held + failed."""


class PlanError(ResettleError):
    """A plan file cannot be read or does not belong to this migration."""

    exit_code = 5


class StalePlanError(PlanError):
    """Source, target or mapping changed since the plan was made; make a new one."""
