"""Draft the languages' CSV: for each OMT translation the target languages that its names may mean. A person approves.

    python migrations/omt/draft_languages.py --env dev

Rows that are in the file already stay as they are, but for their candidates; nothing is ever approved here.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resettle.connections import Connections
from resettle.mapping.load import load

HERE = Path(__file__).parent
COLUMNS = (
    "omt_translation_id",
    "translation_name",
    "source_language_id",
    "mother_tongue_id",
    "source_language_entity_id",
    "target_language_entity_id",
    "audio_version_name",
    "approved",
    "source_candidates",
    "target_candidates",
)
FOR_PEOPLE = ("source_language_entity_id", "target_language_entity_id", "audio_version_name", "approved")
"""Columns that people fill in, and that a new draft never touches; as little as columns that they added."""

Candidates = dict[str, dict[str, str]]
"""Folded name -> id of a language -> how it is meant: by name, by alias, by a code."""


def draft(environment: str, path: Path, variables: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Write the draft to ``path``; gives its rows. Where exactly one language bears a name, it is filled in."""
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n", "utf-8")  # a migration is only loaded with its lookups
    migration = load(HERE, environment, {**(variables or {}), "LANGUAGES": str(path)})
    with Connections(migration) as connections:
        translations = sorted(records(connections, "omt", "OmtTranslation"), key=lambda one: one["id"])
        known, names = candidates(connections)
    before = {row["omt_translation_id"]: row for row in _there(path)}
    rows = [_row(one, before.get(one["id"]), known, names) for one in translations]
    gone = [row for id_, row in before.items() if id_ not in {row["omt_translation_id"] for row in rows}]
    more = [name for name in next(iter(before.values()), {}) if name not in COLUMNS]
    partial = path.with_suffix(".partial")  # what people approved is never half written
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *more], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, *gone])
    partial.replace(path)
    return rows


def records(connections: Connections, connection: str, dataset: str) -> Iterator[dict[str, Any]]:
    """All records of a dataset, its fields as text."""
    source = connections.source(connection)
    for partition in source.partitions(dataset, 1):
        for batch in source.read(partition, 1000):
            names = [column.name for column in source.schema(dataset).columns]
            yield from batch.decode(batch.table, names).to_pylist()


def candidates(connections: Connections) -> tuple[Candidates, dict[str, str]]:
    """The target's languages by every name they have, and how each is shown."""
    known: Candidates = {}
    names: dict[str, str] = {}
    for one in records(connections, "el", "language_entities"):
        if one.get("deleted_at") is None:
            names[str(one["id"])] = f"{one['name']} [{one['level']}]"
            known.setdefault(folded(one["name"]), {}).setdefault(str(one["id"]), "name")
    for one in records(connections, "el", "language_aliases"):
        known.setdefault(folded(one["alias_name"]), {}).setdefault(str(one["language_entity_id"]), "alias")
    for one in records(connections, "el", "language_entity_sources"):
        if one["external_id"]:
            how = str(one["external_id_type"] or one["source"])
            known.setdefault(folded(one["external_id"]), {}).setdefault(str(one["language_entity_id"]), how)
    return {name: {id_: how for id_, how in of.items() if id_ in names} for name, of in known.items()}, names


def folded(name: str) -> str:
    """A name without case, and with single spaces and no space around it."""
    return re.sub(r"\s+", " ", name).strip().casefold()


def _row(
    one: Mapping[str, Any], before: Mapping[str, str] | None, known: Candidates, names: Mapping[str, str]
) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "")
    row["omt_translation_id"] = one["id"]
    row["translation_name"] = one["translationName"] or ""
    row["source_language_id"] = one["sourceLanguageId"] or ""
    row["mother_tongue_id"] = one["motherTongueId"] or ""
    for side, asked in (("source", _spellings(one["sourceLanguageId"])), ("target", _spellings(one["motherTongueId"]))):
        found: dict[str, str] = {}
        for name in asked:
            for id_, how in known.get(folded(name), {}).items():
                found.setdefault(id_, how)
        row[f"{side}_candidates"] = "; ".join(f"{id_} {names[id_]} by {how}" for id_, how in found.items())
        if len(found) == 1:
            row[f"{side}_language_entity_id"] = next(iter(found))
    if before:
        row.update({name: text or "" for name, text in before.items() if name in FOR_PEOPLE or name not in COLUMNS})
    return row


def _spellings(name: str | None) -> list[str]:
    """A name as it stands; a slug `language_dialect` also by its dialect and by its language."""
    if not name or not name.strip():
        return []
    language, _, dialect = name.partition("_")
    return list(dict.fromkeys(part for part in (name, dialect, language) if part.strip()))


def _there(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", required=True, help="dev or prod")
    parser.add_argument("--out", type=Path, help="by default lookups/languages.ENV.csv of this migration")
    chosen = parser.parse_args()
    out = chosen.out or HERE / "lookups" / f"languages.{chosen.env}.csv"
    drafted = draft(chosen.env, out)
    ready = sum(bool(row["source_language_entity_id"] and row["target_language_entity_id"]) for row in drafted)
    print(f"{out}: {len(drafted)} translations, {ready} with one language for each side; approve with `yes`")
