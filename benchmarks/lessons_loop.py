"""What resettle is measured against for lessons: the loop that everybody writes, one item after the other.

Each lesson is a transaction. For each item it selects the asset by its natural key and inserts it if there is none,
does the same with the usage, and at the end updates the lesson's two documents. Psycopg prepares what repeats.
It does less than resettle: it infers no kinds and keeps no ledger.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import psycopg

LISTS = (("videos", "lesson_video"), ("documents", "lesson_document"))


@dataclass
class Done:
    """What the loop did, and how long it took, in seconds."""

    seconds: float = 0.0
    lessons: int = 0
    items: int = 0
    assets: int = 0
    usages: int = 0


def load(url: str) -> Done:
    """Migrate every lesson of the database."""
    done, begun = Done(), time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        lessons = connection.execute(
            "SELECT l.id, l.videos, l.documents, g.organization_id FROM lesson l JOIN course c ON c.id = l.course_id"
            ' JOIN "group" g ON g.id = c.group_id WHERE g.organization_id IS NOT NULL ORDER BY l.id'
        ).fetchall()
        for lesson, videos, documents, organization in lessons:
            with connection.transaction():
                lists = {"videos": videos, "documents": documents}
                _lesson(connection, lesson, organization, lists, done)
            done.lessons += 1
    done.seconds = time.perf_counter() - begun
    return done


def _lesson(connection: psycopg.Connection, lesson: uuid.UUID, organization: uuid.UUID, lists: Any, done: Done) -> None:
    patched = False
    for name, slot in LISTS:
        for position, item in enumerate(lists[name] if isinstance(lists[name], list) else ()):
            if not isinstance(item, dict) or not (item.get("key") or item.get("link")):
                continue
            done.items += 1
            asset = _asset(connection, organization, item, slot, done)
            _usage(connection, organization, asset, lesson, slot, position, done)
            if item.get("assetId") != str(asset):
                item["assetId"], patched = str(asset), True
    if patched:
        connection.execute(
            "UPDATE lesson SET videos = %s, documents = %s WHERE id = %s",
            (json.dumps(lists["videos"]), json.dumps(lists["documents"]), lesson),
        )


def _asset(
    connection: psycopg.Connection, organization: uuid.UUID, item: dict[str, Any], slot: str, done: Done
) -> uuid.UUID:
    key, link, kind = item.get("key"), item.get("link"), slot.removeprefix("lesson_")
    if key:
        found = connection.execute(
            "SELECT id FROM assets WHERE organization_id = %s AND provider = 'upload' AND storage_key = %s",
            (organization, key),
        ).fetchone()
    else:
        found = connection.execute(
            "SELECT id FROM assets WHERE organization_id = %s AND provider = 'generic' AND source_url = %s"
            " AND kind = %s AND is_external",
            (organization, link, kind),
        ).fetchone()
    if found:
        return found[0]  # type: ignore[no-any-return]
    asset = uuid.uuid4()
    connection.execute(
        "INSERT INTO assets (id, organization_id, kind, provider, storage_provider, storage_key, source_url,"
        " is_external, status, created_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'active', now())",
        (asset, organization, kind, "upload" if key else "generic", "s3" if key else "external", key, link, not key),
    )
    done.assets += 1
    return asset


def _usage(
    connection: psycopg.Connection,
    organization: uuid.UUID,
    asset: uuid.UUID,
    lesson: uuid.UUID,
    slot: str,
    position: int,
    done: Done,
) -> None:
    found = connection.execute(
        "SELECT id FROM asset_usages WHERE asset_id = %s AND target_type = 'lesson' AND target_id = %s"
        " AND slot_type = %s AND slot_key IS NULL AND position = %s",
        (asset, str(lesson), slot, position),
    ).fetchone()
    if found:
        return
    connection.execute(
        "INSERT INTO asset_usages (id, organization_id, asset_id, target_type, target_id, slot_type, position,"
        " created_at) VALUES (%s, %s, %s, 'lesson', %s, %s, %s, now())",
        (uuid.uuid4(), organization, asset, str(lesson), slot, position),
    )
    done.usages += 1
