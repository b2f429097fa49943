"""mirubato's logbook from SQLite to SQLite, beside the plain statement that writes the same rows."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import step
from benchmarks.data import CACHE, generator
from benchmarks.figures import Figures

FLOW = "logbook_entries"
FIRST, SAME = "first apply", "no-change apply"
PLAIN: dict[str, dict[str, Any]] = {
    "plain, with checksums": {"checksums": True},
    "plain, without checksums": {"checksums": False},
    "plain, with checksums, all in the page cache": {"checksums": True, "cache": -4_000_000},
}
"""Forms of the plain statement, by name: arguments of `plain`."""
JUDGED = "plain, with checksums"

COLUMNS = "id, user_id, entity_type, entity_id, data, checksum, version, deleted_at"
ISO = "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')"
DATA = f"""json_object('id', id, 'timestamp', {ISO.format("timestamp")}, 'duration', duration, 'type', type,
  'instrument', instrument, 'pieces', json(pieces), 'techniques', json(techniques), 'goalIds', json(goal_ids),
  'notes', notes, 'mood', mood, 'tags', json(tags), 'sessionId', session_id,
  'metadata', json(coalesce(metadata, '{{"source":"manual"}}')), 'createdAt', {ISO.format("created_at")},
  'updatedAt', {ISO.format("updated_at")})"""
INSERT = f"""INSERT INTO main.sync_data ({COLUMNS})
SELECT 'sync_' || id, user_id, 'logbook_entry', id, data, CHECKSUM, 1, deleted_at
FROM (SELECT id, user_id, deleted_at, {DATA} AS data FROM backend.logbook_entries)"""
# The keys differ by design, ours is a digest; so do the checksums, ours is of the sorted keys, as the API's own.
DIFFERENT = """SELECT count(*) FROM plain.sync_data p LEFT JOIN main.sync_data o USING (user_id, entity_type, entity_id)
WHERE (o.data, o.version, o.deleted_at) IS NOT (p.data, p.version, p.deleted_at)"""


def made(rows: int) -> Path:
    """A folder with `backend.sqlite`, which has `rows` ordinary entries, and `api.sqlite`, which has their users."""
    folder = CACHE / f"logbook-{rows}"
    if not folder.exists():
        making = folder.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        step.alone("benchmarks.logbook:generate", folder=str(making), rows=rows)
        making.rename(folder)
    return folder


def prepare(rows: int) -> None:
    """An untimed run of both: it warms the disk cache, and stops unless resettle writes the statement's rows."""
    folder = made(rows)
    with fresh(folder, "resettle") as ours, fresh(folder, "plain") as theirs:
        step.apply("mirubato", _variables(folder, ours), FLOW, {"done": rows})
        run_plain(folder, theirs, rows, checksums=False)
        with closing(sqlite3.connect(f"file:{ours}?mode=ro", uri=True)) as database:
            database.execute("ATTACH ? AS plain", [f"file:{theirs}?mode=ro"])
            ((different,),) = database.execute(DIFFERENT)
    if different:
        raise SystemExit(f"{different} rows are unlike the plain statement's: nothing measured")


def measure_plain(rows: int, figures: Figures) -> None:
    """Each form of the plain statement."""
    for name, how in PLAIN.items():
        with fresh(made(rows), "plain") as api:
            figures.add(name, run_plain(made(rows), api, rows, **how), peer=True)


def measure_resettle(rows: int, figures: Figures) -> None:
    """The first apply, and one with nothing changed."""
    with fresh(made(rows), "resettle") as api:
        variables = _variables(made(rows), api)
        figures.add(FIRST, step.apply("mirubato", variables, FLOW, {"done": rows}))
        before = digest(api)
        os.sync()
        figures.add(SAME, step.apply("mirubato", variables, FLOW, {"unchanged": rows}))
        figures.untouched.append(digest(api) == before)


@contextmanager
def fresh(folder: Path, name: str) -> Iterator[Path]:
    """A copy of the API's database, gone afterwards; what others wrote before is on disk when it begins."""
    copy = folder / f"{name}.sqlite"
    try:
        for file in folder.glob(f"{copy.name}*"):
            file.unlink()
        shutil.copyfile(folder / "api.sqlite", copy)
        os.sync()
        yield copy
    finally:
        for file in folder.glob(f"{copy.name}*"):
            file.unlink()


def run_plain(folder: Path, api: Path, rows: int, **how: Any) -> step.Step:
    taken = step.alone("benchmarks.logbook:plain", backend=str(folder / "backend.sqlite"), api=str(api), **how)
    if taken.said["rows"] != rows:
        raise SystemExit(f"expected {rows} rows, the statement wrote {taken.said['rows']}: nothing measured")
    return taken


def _variables(folder: Path, api: Path) -> dict[str, str]:
    return {"MIRUBATO_BACKEND_DB": str(folder / "backend.sqlite"), "MIRUBATO_API_DB": str(api)}


def digest(api: Path) -> str:
    """Of every row of sync_data with all that is in it, its rowid too."""
    made_of = hashlib.sha256()
    with closing(sqlite3.connect(f"file:{api}?mode=ro", uri=True)) as database:
        for row in database.execute("SELECT rowid, * FROM sync_data ORDER BY rowid"):
            made_of.update(repr(row).encode())
    return made_of.hexdigest()


def generate(folder: str, rows: int) -> dict[str, Any]:
    """In a process of its own: what it needs would count towards the peak memory of later children."""
    begun = time.perf_counter()
    generator("mirubato").generate(Path(folder) / "backend.sqlite", Path(folder) / "api.sqlite", rows, messy=False)
    return {"seconds": time.perf_counter() - begun}


def plain(backend: str, api: str, *, checksums: bool, cache: int = 0) -> dict[str, Any]:
    """Write all entries by one statement. ``cache``: SQLite's cache_size in place of its default of 2 MB."""
    with closing(sqlite3.connect(f"file:{api}?mode=rw", uri=True)) as database:
        database.execute("ATTACH ? AS backend", [f"file:{backend}?mode=ro"])
        database.execute("PRAGMA foreign_keys = ON")
        if cache:
            database.execute(f"PRAGMA main.cache_size = {cache}")
        sha256 = hashlib.sha256
        database.create_function("sha256", 1, lambda text: sha256(text.encode()).hexdigest(), deterministic=True)
        begun = time.perf_counter()
        written = database.execute(INSERT.replace("CHECKSUM", "sha256(data)" if checksums else "id")).rowcount
        database.commit()
        return {"seconds": time.perf_counter() - begun, "rows": written}
