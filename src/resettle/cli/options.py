"""The options that commands share, and what they open: migration, connections, ledger, console, log."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from resettle import private
from resettle.connections import Connections
from resettle.engine import outcomes
from resettle.engine.apply import Applied, summary
from resettle.engine.flow import Options, selected
from resettle.errors import ConfigError
from resettle.mapping.load import Migration, load
from resettle.report.log import event, open_log
from resettle.report.outcomes import Unsettled, print_unsettled, write_unsettled
from resettle.report.progress import Progress
from resettle.report.summary import print_applied
from resettle.report.terminal import Terminal

MigrationPath = Annotated[
    Path,
    typer.Option("--migration", "-m", envvar="RESETTLE_MIGRATION", help="The migration's folder.", show_default=False),
]
Env = Annotated[str | None, typer.Option("--env", "-e", help="The environment, as the migration names it.")]
Var = Annotated[list[str] | None, typer.Option("--var", help="NAME=VALUE, overrides a variable; repeatable.")]
Select = Annotated[list[str] | None, typer.Option("--select", "-s", help="Only this flow; repeatable.")]
Where = Annotated[str | None, typer.Option(help="Only source records for which this SQL is true.")]
Limit = Annotated[int | None, typer.Option(min=0, help="At most so many source records of each flow.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Records in one transaction, by default 20,000; 50,000 into SQLite; at most 500 with files."
    ),
]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Parts of a source read at once.")]
Concurrency = Annotated[
    int | None,
    typer.Option(
        min=1, max=64, help="Files copied at once, by default 10, and requests to an API, by default its `workers`."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, all else on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Repeat the log on stderr; show tracebacks.")]
Yes = Annotated[
    str | None,
    typer.Option("--yes", help="A guarded environment's name, instead of typing it.", show_default=False),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Trust no remembered hash: decode and compare everything.")]
Listed = Annotated[int, typer.Option("--limit", min=1, help="At most so many are listed.")]
ShowValues = Annotated[bool, typer.Option("--show-values", help="Show values of records (they may be personal data).")]

HERE = Path()
DEFAULT_WORKERS = Options().workers

out = Terminal()
err = Terminal(stderr=True)


@dataclass(frozen=True)
class Opened:
    """What a command works with."""

    migration: Migration
    connections: Connections
    options: Options
    json: bool


@contextmanager
def opened(
    command: str,
    path: Path,
    env: str | None,
    var: list[str] | None = None,
    *,
    json: bool = False,
    verbose: bool = False,
    progress: bool = False,
    stoppable: bool = False,
    writes: bool = False,
    yes: str | None = None,
    **chosen: Any,
) -> Iterator[Opened]:
    """Load the migration and open what is asked for; closed at the end whatever happens.

    A command that ``writes`` passes the guard of the environment first, with the name given by ``yes``.
    """
    migration = load(path, env, _variables(var))
    if writes:
        _guard(migration, yes)
    log = open_log(migration.root, command, verbose=verbose)
    event("started", command=command, migration=migration.name, environment=migration.environment)
    stop = threading.Event()
    with Connections(migration) as connections, _interruptible(stop, stoppable):
        settings = {key: value for key, value in chosen.items() if value is not None}
        settings["select"] = tuple(settings.get("select") or ())
        options = Options(**settings, stop=stop)
        if not progress:
            yield Opened(migration, connections, options, json)
        else:
            totals = _totals(migration, connections, options)
            with Progress(err, totals) as shown:
                live = Options(**settings, stop=stop, progress=shown)
                yield Opened(migration, connections, live, json)
    event("finished", command=command, log=str(log.name))


def _variables(var: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in var or []]
    for name, sign, _ in pairs:
        if not sign:
            raise ConfigError(f"--var {name}: expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _totals(migration: Migration, connections: Connections, options: Options) -> dict[str, int | None]:
    """Records of each flow's source, where that is cheap to know, for the progress line."""
    totals: dict[str, int | None] = {}
    for name in selected(migration, options):
        connection, _, dataset = migration.file.flows[name].from_.partition(".")
        totals[name] = connections.source(connection).count(dataset)
    return totals


@contextmanager
def _interruptible(stop: threading.Event, stoppable: bool) -> Iterator[None]:
    """Ctrl-C once: finish the batch and say how to go on. Twice: stop now."""
    if not stoppable or threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        err.print("Finishing this batch; press Ctrl-C again to stop at once.")

    before = signal.signal(signal.SIGINT, asked)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(app: typer.Typer, arguments: list[str] | None) -> int:
    """Run the command line; gives the code a command ended with. Its errors are raised."""
    code = app(args=arguments, standalone_mode=False)
    return code if isinstance(code, int) else 0


def _guard(migration: Migration, yes: str | None) -> None:
    """Writing to a guarded environment needs its name, typed or passed."""
    if not migration.guard:
        return
    name = migration.environment
    given = yes
    if given is None and sys.stdin.isatty():
        given = typer.prompt(f"This writes to `{name}`. Type its name to go on", err=True)
    if given != name:
        raise ConfigError(f"environment `{name}` is guarded", hint=f"pass --yes {name}")


def print_json(data: Any) -> None:
    """JSON on stdout, nothing else there."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def unsettled(o: Opened, done: Applied) -> Unsettled:
    """What a run leaves for somebody to look at, also written to a file if there is any."""
    found = outcomes.unsettled(o.connections.ledger(), [counts.flow for counts in done.counts], done.run)
    if o.options.show_values:
        found = iter(outcomes.labelled(o.migration, o.connections, o.options, found))
    folder = private.folder(o.migration.root / ".resettle")
    return write_unsettled(folder / f"failed_{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json", found)


def conclude(done: Applied, left: Unsettled, *, json: bool) -> None:
    """Print what a run did and what it leaves, and end the command with its exit code."""
    if json:
        print_json(summary(done) | left.as_json())
    else:
        print_applied(out, done)
        print_unsettled(out, left)
    if done.exit_code:
        raise typer.Exit(done.exit_code)


_SECRET = re.compile(r"secret|passw|pwd|token|key|credential|cookie|authorization|bearer|signature", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)([^/@:?\s]*):\S*@")
"""Up to the last @: a password may hold one that nobody escaped."""
_PARAMETER = re.compile(
    r"\b([\w-]*(?:secret|passw|pwd|token|key|credential|signature|auth)[\w-]*|sig)(\s*=\s*)('[^']*'|[^&\s]+)",
    re.IGNORECASE,
)


def redacted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings fit for a screen: secrets and passwords in URLs become ***."""
    return {
        key: "***" if _SECRET.search(key) and not isinstance(value, Mapping) else _clean(value)
        for key, value in settings.items()
    }


def _clean(value: Any) -> Any:
    """A setting without its secrets, and without the passwords that a URL or a connection string may hold."""
    if isinstance(value, Mapping):
        return redacted(value)
    if isinstance(value, list):
        return [_clean(one) for one in value]
    if not isinstance(value, str):
        return value
    return _PARAMETER.sub(r"\1\2***", _USERINFO.sub(r"\1:***@", value))
