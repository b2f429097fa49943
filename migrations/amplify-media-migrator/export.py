"""Which file has which status, with its name: `review`, `export --status ...` and the list of failed files.

The ledger keeps ids and reasons, no names; so the folder is listed anew, and nothing is written but the output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

import resettle
from resettle.mapping.functions import own_functions

FLOW = "files"
COLUMNS = ("id", "name", "path", "web_link", "modified_at")
STATUSES = ("pending", "completed", "partial", "failed", "orphan", "needs_review", "duplicate", "shortcut")
WORDS = {"held": "needs_review", "failed": "failed", "partial": "partial"}
"""The ledger's status in the seed's words; a skipped file's word is its reason."""


def files(migration: resettle.Migration) -> Iterator[dict[str, Any]]:
    """Every file of the folder as it is listed now, with what the ledger remembers of it."""
    numbers = _numbers(migration)
    with resettle.connect(migration) as connections:
        ledger, drive = connections.ledger(), connections.source("drive")
        for partition in drive.partitions("files", 1):
            for batch in drive.read(partition, 1000):
                listed = batch.decode(batch.table, list(COLUMNS)).to_pylist()
                known = ledger.known(FLOW, pa.array([one["id"] for one in listed], pa.string()))
                for one in _with_status(listed, known.units.to_pylist(), known.rows.to_pylist()):
                    yield one | {"sequential_ids": numbers(one["filename"])}


def _numbers(migration: resettle.Migration) -> Callable[[str], list[int | str]]:
    """How this migration reads a name: what is more than `observation_ids` of a partial file is missing."""
    read = own_functions(migration.functions_file)["sequential_ids"]
    said = migration.file.vars

    def numbers(name: str) -> list[int | str]:
        found = json.loads(read(name, str(said["names"]), int(str(said["longest_range"]))) or "[]")
        return [int(one) if one.isdigit() else one for one in found]

    return numbers


def _with_status(
    listed: Iterable[dict[str, Any]], units: Iterable[dict[str, Any]], rows: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    seen = {one["unit"]: one for one in units}
    made: dict[str, list[str]] = {}
    meant: set[str] = set()
    for row in rows:
        made.setdefault(row["unit"], []).append(row["target_key"])
        if row["fp"] is None:
            meant.add(row["unit"])
    for one in listed:
        unit = seen.get(one["id"])
        # A row that was only meant is of a run that was interrupted: the next one goes on with it.
        status = "pending" if unit is None or one["id"] in meant else _word(unit)
        linked = [key.split("/") for key in made.get(one["id"], []) if key.startswith("https:")]
        yield {
            "id": one["id"],
            "filename": one["name"],
            "path": one["path"],
            "link": one["web_link"],
            "status": status,
            "reason": unit and unit["reason"],
            "s3_url": _plain(linked[0][0]) if linked else None,
            "observation_ids": [_plain(observation) for _, observation in linked],
        }


def _word(unit: dict[str, Any]) -> str:
    if unit["status"] is None:
        return "completed"
    return WORDS.get(unit["status"]) or str(unit["reason"])


def _plain(part: str) -> str:
    """A part of a joined key as it was."""
    return part.replace("%2F", "/").replace("%25", "%")


def write(found: list[dict[str, Any]], output: Path) -> None:
    """As JSON, for its owner's eyes."""
    with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(found, stream, ensure_ascii=False, indent=2)
        stream.write("\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--status", action="append", choices=STATUSES, help="only these; repeatable")
    parser.add_argument("--output", type=Path, help="a JSON file; without it, one line for each file")
    parser.add_argument("--env", help="the environment, as the migration names it")
    parser.add_argument("--var", action="append", default=[], help="NAME=VALUE; repeatable")
    given = parser.parse_args(arguments)
    variables = dict(one.split("=", 1) for one in given.var)
    migration = resettle.load(Path(__file__).parent, given.env, variables)
    found = [one for one in files(migration) if not given.status or one["status"] in given.status]
    if given.output:
        write(found, given.output)
    else:
        for one in found:
            print(one["status"], one["reason"] or "-", one["id"], f"{one['path']}/{one['filename']}", sep="\t")
    counts = Counter(one["status"] for one in found)
    print(", ".join(f"{count:,} {word}" for word, count in counts.items()) or "no file", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
