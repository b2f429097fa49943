"""mirubato's local stack: the backend's and the API's databases as SQLite files, which a local D1 is as well."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from resettle.sandbox.module import module_at

HERE = Path(__file__).parent
ENTRIES = 2_000

CORRECTIONS = {"pieces_cut_off": ("pieces", "[]"), "tags_with_comma": ("tags", '["evening"]')}
"""What the owner of the source mends in the demo, by the trap's name."""


@contextmanager
def stack(folder: Path, *, entries: int = ENTRIES) -> Iterator[dict[str, str]]:
    """Make both databases; yields the variables of the `local` environment."""
    backend, api = folder / "backend.sqlite", folder / "api.sqlite"
    generator().generate(backend, api, entries)
    yield {"MIRUBATO_BACKEND_DB": str(backend), "MIRUBATO_API_DB": str(api)}


def generator():  # type: ignore[no-untyped-def]
    """The module that makes the databases (beside this file, which is in no package)."""
    return module_at(HERE / "generate.py")


def correct(folder: Path) -> None:
    """Mend some malformed records in the backend."""
    with closing(sqlite3.connect(folder / "backend.sqlite")) as backend, backend:
        for name, (column, text) in CORRECTIONS.items():
            changed = backend.execute(f"UPDATE logbook_entries SET {column} = ? WHERE id = ?", (text, f"messy_{name}"))
            assert changed.rowcount == 1, name
