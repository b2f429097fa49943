"""The command line: one command per phase. Commands parse, call, print and exit; they hold no logic."""

from __future__ import annotations

import sys
import threading
import traceback

import typer

from resettle.cli import config, demo, export, held, init, look, rollback, verify, write
from resettle.cli.options import err, run
from resettle.errors import MappingError, ResettleError
from resettle.memory import steady
from resettle.report.log import event
from resettle.report.terminal import escape

EXIT_CODES = """
Exit codes: 0 done and balanced · 1 failed units or unexpected error · 2 usage or configuration ·
3 done with held units · 4 verification failed · 5 plan stale · 6 access refused · 7 locked by another run ·
130 interrupted, resumable.
"""

app = typer.Typer(
    help="Move an application's backend to its new home, and prove that everything arrived.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for module in (init, config, look, write, export, verify, rollback, demo):
    module.register(app)
app.add_typer(held.app, name="held")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; errors become one message and what to do next."""
    steady()
    threading.excepthook = lambda said: err.print(f"[red]{said.exc_type.__name__}[/] in a thread", highlight=False)
    try:
        code = run(app, arguments)
    except ResettleError as error:
        _say(error)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        err.print("Interrupted. What was committed stays; go on with: resettle apply")
        code = 130
    except OSError as error:  # a full disk, or no right, where a plan, a report or a log was to be written
        what = f"{error.strerror or type(error).__name__}{f': {error.filename}' if error.filename else ''}"
        _say(ResettleError(what, hint="What was committed stays. Mend that, then run the command again."))
        code = 1
    except Exception as error:
        code = _unexpected(error, verbose=bool({"-v", "--verbose"} & {*(sys.argv if arguments is None else arguments)}))
    sys.exit(code)


def _say(error: ResettleError) -> None:
    event("error", kind=type(error).__name__, message=error.message)
    err.print(f"[red]error:[/] {escape(error.message)}", highlight=False)
    if error.hint:
        err.print(f"  {escape(error.hint)}", highlight=False)
    for other in error.others if isinstance(error, MappingError) else ():
        _say(other)


def _frames(error: BaseException) -> list[str]:
    """The traceback with that of each cause before it: types and places, no message, for that may hold values."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [line for text in traceback.format_list(frames) for line in text.splitlines()]
    return [*(_frames(cause) if cause else ()), *lines, f"{type(error).__module__}.{type(error).__qualname__}"]


def _unexpected(error: Exception, *, verbose: bool) -> int:
    """Usage errors of the command line, and faults of ours: those show no message, which may hold values."""
    show = getattr(error, "show", None)
    if show is not None and hasattr(error, "exit_code"):
        show()
        return int(error.exit_code)
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    event("unexpected", kind=type(error).__name__, frames=frames[-8:])
    if verbose:
        err.print("\n".join(escape(line) for line in _frames(error)), highlight=False)
    err.print(f"[red]unexpected {type(error).__name__}[/] at {escape(frames[-1])}", highlight=False)
    err.print("  This is a fault of resettle. Nothing half-written was committed; -v shows the traceback.")
    return 1
