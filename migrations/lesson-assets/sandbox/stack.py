"""lesson-assets' local stack: a Postgres with the product's tables, its lessons, and assets that it already has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import psycopg

from resettle.sandbox.module import module_at
from resettle.sandbox.postgres import start_postgres

HERE = Path(__file__).parent
LESSONS = 5_000


@contextmanager
def stack(
    folder: Path, *, lessons: int = LESSONS, messy: bool = True, later_usage_index: bool = False
) -> Iterator[dict[str, str]]:
    """Start everything; yields the variables of the `local` environment.

    `later_usage_index`: the unique index of asset_usages as it is since the product's migration 0001.
    """
    with start_postgres() as server:
        url = server.create_database("courses")
        prepare(url, later_usage_index=later_usage_index)
        fill(url, lessons, messy=messy)
        (folder / "url").write_text(url)
        yield {"DATABASE_URL": url}


def prepare(url: str, *, later_usage_index: bool = False) -> None:
    """Make the product's tables in an empty database."""
    with psycopg.connect(url) as connection:
        connection.execute((HERE / "schema.sql").read_text("utf-8"))
        if later_usage_index:
            connection.execute((HERE / "later_usage_index.sql").read_text("utf-8"))


def fill(url: str, lessons: int, *, messy: bool = True) -> None:
    """Put `lessons` ordinary lessons and, with `messy`, every trap into the product's tables."""
    if lessons:
        part("generate").generate(url, lessons)
    if messy:
        with psycopg.connect(url) as connection:
            part("messy").write(connection)


def part(name: str) -> ModuleType:
    """A module beside this file, which is in no package."""
    return module_at(HERE / f"{name}.py")


def correct(folder: Path) -> None:
    """Mend one of the held lessons, as the product's staff would: its archived asset is wanted after all."""
    with psycopg.connect((folder / "url").read_text()) as connection:
        connection.execute("UPDATE assets SET status = 'active' WHERE id = %s", [part("messy").ARCHIVED])
