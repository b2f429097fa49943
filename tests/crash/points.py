"""The points at which a run may die, as data: each has a name, what is wrapped, and what is on disk then.

They make the table in docs/guarantees.md: see table.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.crash.watching import SQL, Call, Commit, Watch, watch_commits

MIGRATIONS = ("medzen", "mirubato", "lesson-assets", "omt", "amplify-media-migrator")
SIDES = ("before", "after")
PATCHED = {"lesson"}
"""Datasets that are only ever patched."""
OFTEN = {"batch", "object put", "API rows written", "rollback step"}
"""Points of which also the second passing is tried every time."""


# -- the points ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One step of a run. ``before`` and ``after``: what is on disk if it dies there; ``then``: what the next run does.

    ``start`` is the state in which the run that dies begins: `empty` (nothing was ever applied), `revised` (a part
    was applied, then the source was edited), `applied` (all was; for a rollback).
    ``durable``: whether the first passing leaves a trace in the target, its files or the ledger's memory (None: it
    depends on the migration).
    """

    name: str
    wraps: Call | Commit
    before: str
    after: str
    then: str
    phases: tuple[str, ...] = ("apply",)
    start: str = "revised"
    durable: tuple[bool | None, bool | None] = (False, False)
    not_passed: Mapping[str, str] = field(default_factory=dict)
    """Why some migrations do not pass it."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Constants of the engine that the dying run gets, so that it passes here: `module:NAME` and value."""

    def passings(self, count: int, *, thorough: bool) -> list[int]:
        """At which passings to die, of so many: the first, the second and the last."""
        if self.settings:
            return [1]
        lasting = isinstance(self.wraps, Commit) or self.durable[1] is True
        more = {2, count} if thorough or self.name in OFTEN else {count} if lasting else set()
        return sorted({1, *more} & {*range(1, count + 1)})


def _sent(verb: str, *words: str) -> Call:
    """A request to a bucket whose query has just these of S3's words: however it was made, it is sent here."""

    def is_one(pool: Any, method: str, url: str, *_: Any, **__: Any) -> bool:
        query = parse_qs(urlsplit(url).query, keep_blank_values=True)
        has = {"uploads", "uploadId", "partNumber"} & query.keys()
        return bool(method == verb and has == set(words))

    return Call(("botocore.awsrequest:AWSHTTPConnectionPool",), "urlopen", is_one)


def _written(chosen: Callable[[str, str], bool]) -> Call:
    return Call(SQL, "write", lambda self, dataset, rows, key, action: chosen(dataset, str(action)))


_ROLLED_BACK = "nothing: the database takes the batch back"
_AGAIN = "decides the batch again"
_NO_FILES = dict.fromkeys(("medzen", "mirubato", "lesson-assets"), "it has no files")
_NO_EFFECTS = dict.fromkeys(("medzen", "mirubato", "lesson-assets"), "all that it writes is in one transaction")
_NO_API = dict.fromkeys(("medzen", "mirubato", "lesson-assets", "omt"), "it writes to no API")
_SMALL = {**_NO_FILES, "omt": "every file of this matrix is smaller than one part"}
_NO_ROWS = {"amplify-media-migrator": "it writes to no database but the ledger"}
_MATCHED = "it reuses rows, and never changes them"

POINTS = (
    # every run: the ledger
    Point(
        "ledger made",
        Commit("prepare"),
        "nothing",
        "its tables, empty",
        "makes them where they are missing, all or none",
        start="empty",
    ),
    Point(
        "flows numbered",
        Commit("_number_flow"),
        "the ledger's tables, empty",
        "the flows' numbers and views",
        "numbers the flows where they have no number",
        start="empty",
    ),
    Point(
        "lock taken",
        Commit("_take"),
        "nothing of this run",
        "a run `running`; the lock, with host, process and heartbeat",
        "takes the lock over: at once if that process is gone from the same machine, after 90 seconds without"
        " heartbeat otherwise; until then exit code 7. The old run becomes `died`, the fence is raised by one",
        phases=("apply", "rollback"),
    ),
    Point(
        "columns numbered",
        Call(("resettle.ledger.ledger:Ledger",), "shape"),
        "nothing of the flow",
        "a row in `shapes`",
        "uses it",
        start="empty",
    ),
    Point(
        "sign of life",
        Commit("heartbeat"),
        "what was committed so far",
        "the same, and a younger heartbeat",
        "as after `lock taken`",
        durable=(None, None),
        settings={"resettle.engine.commit:HEARTBEAT": 0.05},
    ),
    # a batch
    Point(
        "batch decided",
        Call(("resettle.engine.decide:Decider",), "decide"),
        "nothing of the batch",
        "nothing of the batch. Without a transaction: its files and API rows, if it is decided for the second time",
        "reads and decides it again",
    ),
    Point(
        "intents",
        Commit("intend"),
        "nothing of the batch",
        "rows without a fingerprint in the ledger",
        "makes what was meant, with the same minted ids; nothing was made yet",
        durable=(None, True),
        not_passed=_NO_EFFECTS,
    ),
    Point(
        "object put",
        _sent("PUT"),
        "intents; the files before it",
        "the file, whole, and the intents",
        "finds by key, size and MD5 what is there, takes it for its own, and copies the others",
        durable=(True, True),
        not_passed=_NO_FILES,
    ),
    Point(
        "upload begun",
        _sent("POST", "uploads"),
        "intents; the files before it",
        "the same; an upload without parts, which nobody sees",
        "copies the file anew. An upload without parts is left to the bucket's own rules",
        durable=(True, True),
        start="empty",
        not_passed=_SMALL,
    ),
    Point(
        "part sent",
        _sent("PUT", "uploadId", "partNumber"),
        "intents; an upload that nobody ends",
        "the same, with one part more",
        "copies the file anew. An apply a day later gives the parts up",
        durable=(True, True),
        start="empty",
        not_passed=_SMALL,
    ),
    Point(
        "upload completed",
        _sent("POST", "uploadId"),
        "intents; an upload that nobody ends, with all parts",
        "the file, whole, and the intents",
        "as after `object put`; before it as after `part sent`",
        durable=(True, True),
        start="empty",
        not_passed=_SMALL,
    ),
    Point(
        "API rows written",
        Call(
            ("resettle.connectors._appsync_read:Requests",),
            "answer",
            lambda self, kind, asks: kind == "mutation" and not asks[0].field.startswith("delete"),
        ),
        "intents, and the files before them",
        "the rows; their answer never came",
        "finds them by their values, takes them for its own, and makes the others. Of rows that it changed the"
        " before-images are lost",
        durable=(True, True),
        not_passed=_NO_API,
    ),
    Point(
        "rows created",
        _written(lambda dataset, action: action == "create"),
        _ROLLED_BACK,
        _ROLLED_BACK + ". D1: nothing was sent yet",
        _AGAIN + "; rows may stay locked until the server notices that its client is gone",
        durable=(None, None),
        not_passed=_NO_ROWS,
    ),
    Point(
        "rows updated",
        _written(lambda dataset, action: action == "update" and dataset not in PATCHED),
        _ROLLED_BACK,
        _ROLLED_BACK,
        _AGAIN + ", and looks at what stands there again",
        durable=(None, None),
        not_passed={**_NO_ROWS, "lesson-assets": _MATCHED},
    ),
    Point(
        "documents patched",
        _written(lambda dataset, action: action == "update" and dataset in PATCHED),
        _ROLLED_BACK,
        _ROLLED_BACK,
        _AGAIN + ", from the documents as they are then",
        not_passed={name: "it patches no document" for name in MIGRATIONS if name != "lesson-assets"},
    ),
    Point(
        "refusals asked",
        Call(SQL, "refusals"),
        _ROLLED_BACK,
        _ROLLED_BACK,
        "asks again",
        durable=(None, None),
        not_passed={**_NO_ROWS, "lesson-assets": "nothing of it is refused"},
    ),
    Point(
        "ledger record",
        Call(("resettle.ledger.ledger:Ledger",), "record"),
        _ROLLED_BACK + "; files and API rows of the batch, with their intents, stay",
        "the same: it is the same transaction",
        _AGAIN + ", copies nothing twice, commits",
        durable=(None, None),
    ),
    Point(
        "batch",
        Commit("record"),
        _ROLLED_BACK + "; files and API rows of the batch, with their intents, stay",
        "the batch, whole, with its memory",
        "passes over it by its hashes",
        durable=(None, True),
    ),
    # the end of a flow and of a run
    Point(
        "statistics",
        Call(("resettle.ledger.ledger:Ledger",), "loaded"),
        "all of the flow",
        "all of the flow",
        "finds all unchanged",
        durable=(True, True),
        settings={"resettle.engine.apply:LARGE": 1},
        start="empty",
    ),
    Point(
        "after:",
        Call(("resettle.engine.apply",), "run_after", lambda statements, targets: bool(statements)),
        "all of the flow; its `after:` not run",
        "all of the flow",
        "finds all unchanged, runs `after:` again (so write it to be repeatable)",
        durable=(True, True),
        not_passed={name: "it has no `after:`" for name in MIGRATIONS if name != "omt"},
    ),
    Point(
        "finish",
        Commit("finish"),
        "everything; a run `running`, the lock",
        "a run with its outcome, the lock",
        "takes the lock over; an outcome that was noted stays",
        phases=("apply", "rollback"),
        durable=(True, True),
    ),
    Point(
        "lock given back",
        Commit("_close"),
        "a run with its outcome, the lock",
        "everything",
        "finds all unchanged",
        phases=("apply", "rollback"),
        durable=(True, True),
    ),
    # a saved plan
    Point(
        "plan file begun",
        Call(("resettle.private",), "new", lambda path: ".plan." in path.name),
        "an older plan of that name, whole",
        "the same; an empty file beside it, hidden, that ends in `.partial`",
        "makes it again; what ends in `.partial` may be removed",
        phases=("plan",),
    ),
    Point(
        "plan file named",
        Call(("os",), "replace", lambda old, new: str(new).endswith(".plan")),
        "an older plan of that name, whole; the hidden file, whole",
        "the plan",
        "makes it again",
        phases=("plan",),
    ),
    # a rollback
    Point(
        "rows restored",
        _written(lambda dataset, action: action == "update"),
        _ROLLED_BACK,
        _ROLLED_BACK,
        "`rollback RUN --execute` again goes on",
        phases=("rollback",),
        start="applied",
        durable=(None, None),
        not_passed=_NO_ROWS,
    ),
    Point(
        "rows deleted",
        Call(SQL, "delete"),
        _ROLLED_BACK,
        _ROLLED_BACK,
        "the same",
        phases=("rollback",),
        start="applied",
        durable=(None, None),
        not_passed=_NO_ROWS,
    ),
    Point(
        "object deleted",
        _sent("DELETE"),
        "the objects before it are gone; the ledger knows them",
        "and this one",
        "goes on; what is gone is only forgotten",
        phases=("rollback",),
        start="applied",
        durable=(None, True),
        not_passed=_NO_FILES,
    ),
    Point(
        "API rows deleted",
        Call(
            ("resettle.connectors._appsync_read:Requests",),
            "answer",
            lambda self, kind, asks: kind == "mutation" and asks[0].field.startswith("delete"),
        ),
        "the rows before it are gone; the ledger knows them",
        "and these",
        "goes on; what is gone is only forgotten",
        phases=("rollback",),
        start="applied",
        durable=(None, True),
        not_passed=_NO_API,
    ),
    Point(
        "units forgotten",
        Call(("resettle.ledger.ledger:Ledger",), "forget"),
        _ROLLED_BACK + "; objects and API rows stay deleted",
        "the same: it is the same transaction",
        "goes on",
        phases=("rollback",),
        start="applied",
        durable=(None, None),
    ),
    Point(
        "rollback step",
        Commit("forget"),
        _ROLLED_BACK + "; objects and API rows stay deleted",
        "at most 5,000 units undone, with their memory, the others not; a run `running`",
        "takes the lock over; `rollback RUN --execute` again goes on",
        phases=("rollback",),
        start="applied",
        durable=(None, True),
    ),
    Point(
        "held units forgotten",
        Commit("forget_unwritten"),
        "all units undone; the run's held ones remembered",
        "all of it undone",
        "goes on",
        phases=("rollback",),
        start="applied",
        durable=(True, True),
    ),
)


def watch_all(watch: Watch, phase: str) -> None:
    """Wrap what this phase passes. Only in a process that is to end soon."""
    for point in POINTS:
        if phase in point.phases:
            point.wraps.watched(watch, point.name)
    watch_commits(watch)
