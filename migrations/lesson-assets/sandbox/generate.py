"""Made-up lessons with their media, and assets that some of them have already: same arguments, same rows."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

import psycopg

CHUNK = 10_000  # lessons in memory at once
NULL = r"\N"
TIME = "2026-01-02 03:04:05+00"
WORDS = ("intro", "week-1", "lecture", "summary", "übung", "lab", "exercise", "q-and-a", "recap", "welcome")
EXTENSIONS = (("pdf", "pdf"), ("docx", "docx"), ("doc", "doc"), ("pdf", "pptx"))
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
BAD_VIDEOS = (
    "null",
    '"https://x.example"',
    '{"type":"vimeo","link":"https://vimeo.example/1"}',
    '{"type":"upload","link":"https://bucket.example.com/x"}',
    '{"type":"youtube","link":"  ","metadata":{}}',
)


@dataclass
class Made:
    """Rows of one chunk, as lines of COPY."""

    lessons: list[str] = field(default_factory=list)
    assets: list[str] = field(default_factory=list)
    usages: list[str] = field(default_factory=list)


class School:
    """Organizations with groups, courses, teachers and the media that several of their lessons use."""

    def __init__(self, rng: Random, lessons: int) -> None:
        self.organizations = [uuid(rng) for _ in range(max(2, lessons // 10_000))]
        self.groups = [(uuid(rng), organization) for organization in self.organizations for _ in range(4)]
        self.groups.append((uuid(rng), NULL))
        self.teachers = [uuid(rng) for _ in range(max(5, lessons // 200))]
        # Every 100th course is in no group, every 100th in a group of no organization.
        self.courses = [
            (uuid(rng), *((NULL, NULL) if at == 0 else self.groups[-1] if at == 50 else rng.choice(self.groups[:-1])))
            for number in range(max(100, lessons // 25))
            for at in (number % 100,)
        ]
        self.links = {o: [youtube_link(rng) for _ in range(300)] for o in self.organizations}
        self.keys = {o: [key(rng, "mp4") for _ in range(100)] for o in self.organizations}

    def write(self, cursor: psycopg.Cursor) -> None:
        copy(cursor, "organization (id, name)", (f"{o}\tSchool {n}" for n, o in enumerate(self.organizations)))
        teachers = (f"{teacher}\tTeacher {n}\tteacher{n}" for n, teacher in enumerate(self.teachers))
        copy(cursor, "profile (id, fullname, username)", teachers)
        copy(cursor, '"group" (id, name, organization_id)', (f"{g}\tA group\t{o}" for g, o in self.groups))
        courses = (f"{course}\tA course\t\t{group}" for course, group, _ in self.courses)
        copy(cursor, "course (id, title, description, group_id)", courses)


def generate(url: str, lessons: int, *, seed: int = 1) -> None:
    """Fill the product's tables: `lessons` lessons with about three media items each.

    A tenth of the items is used in several lessons, some have an asset already (with a usage or without, or an
    assetId that leads nowhere), about one in a hundred is of no use.
    """
    rng = Random(seed)
    school = School(rng, lessons)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        school.write(cursor)
        for first in range(0, lessons, CHUNK):
            made = Made()
            for number in range(first, min(first + CHUNK, lessons)):
                _lesson(rng, school, number, made)
            columns = "id, title, course_id, teacher_id, video_url, videos, documents, created_at, updated_at"
            copy(cursor, f"lesson ({columns})", made.lessons)
            columns = "id, organization_id, kind, provider, storage_provider, storage_key, mime_type, created_at"
            copy(cursor, f"assets ({columns})", made.assets)
            columns = "organization_id, asset_id, target_type, target_id, slot_type, position"
            copy(cursor, f"asset_usages ({columns})", made.usages)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ANALYZE")


def copy(cursor: psycopg.Cursor, table: str, lines: Iterable[str]) -> None:
    with cursor.copy(f"COPY {table} FROM STDIN") as rows:
        rows.write("".join(f"{line}\n" for line in lines))


def uuid(rng: Random) -> str:
    bits = f"{rng.getrandbits(128):032x}"
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-{bits[20:]}"


def key(rng: Random, extension: str) -> str:
    """A storage key as the product makes it: a nanoid and the cleaned name of the file."""
    bits = rng.getrandbits(126)
    return f"{nanoid(bits, 21)}-{WORDS[bits % 10]}.{extension}"


def nanoid(bits: int, length: int) -> str:
    return "".join(LETTERS[bits >> 6 * at & 63] for at in range(length))


def youtube_link(rng: Random) -> str:
    bits = rng.getrandbits(80)
    video = nanoid(bits, 11)
    return f"https://youtu.be/{video}?si={bits}" if bits & 1 else f"https://www.youtube.com/watch?v={video}"


def _lesson(rng: Random, school: School, number: int, made: Made) -> None:
    id_ = uuid(rng)
    course, _, organization = school.courses[int(rng.random() * len(school.courses))]
    if organization == NULL:
        organization = school.organizations[0]
    videos = [_video(rng, school, organization, id_, at, made) for at in range(int(rng.random() * 5))]
    documents = [_document(rng) for _ in range(int(rng.random() * 3))]
    teacher = school.teachers[int(rng.random() * len(school.teachers))]
    old = "https://youtu.be/old" if rng.random() < 0.02 else NULL
    media = f"[{','.join(videos)}]\t[{','.join(documents)}]"
    made.lessons.append(f"{id_}\tLesson {number}\t{course}\t{teacher}\t{old}\t{media}\t{TIME}\t{TIME}")


def _video(rng: Random, school: School, organization: str, lesson: str, position: int, made: Made) -> str:
    kind, chance = rng.random(), rng.random()
    if kind < 0.01:
        return BAD_VIDEOS[int(chance * len(BAD_VIDEOS))]
    if kind < 0.5:
        links = school.links[organization]
        link = links[int(chance * 5 * len(links))] if chance < 0.2 else youtube_link(rng)
        return f'{{"type":"youtube","link":"{link}","metadata":{{}}}}'
    if kind < 0.6:
        return f'{{"type":"generic","link":"https://media.example/{int(chance * 1e9)}.mp4","metadata":{{}}}}'
    keys = school.keys[organization]
    shared = chance < 0.1
    storage_key = keys[int(chance * 10 * len(keys))] if shared else key(rng, "mp4")
    asset = "" if shared else _asset(rng, organization, lesson, position, storage_key, chance, made)
    return (
        f'{{"type":"upload","link":"https://bucket.example.com/{storage_key}?X-Amz-Signature={int(chance * 1e15)}",'
        f'"key":"{storage_key}"{asset}}}'
    )


def _asset(
    rng: Random, organization: str, lesson: str, position: int, storage_key: str, chance: float, made: Made
) -> str:
    """The item's assetId, if it has one; its asset and its usage, if they are there."""
    if chance > 0.25:
        return ""
    id_ = uuid(rng)
    if chance > 0.12:
        made.assets.append(f"{id_}\t{organization}\tvideo\tupload\ts3\t{storage_key}\tvideo/mp4\t{TIME}")
    if chance > 0.15:
        made.usages.append(f"{organization}\t{id_}\tlesson\t{lesson}\tlesson_video\t{position}")
    return f',"assetId":"{id_}"'


def _document(rng: Random) -> str:
    chance = rng.random()
    type_, extension = EXTENSIONS[int(chance * 4)]
    if chance > 0.95:
        return f'{{"type":"pdf","name":"Handout","link":"https://docs.example/{int(chance * 1e9)}.pdf"}}'
    storage_key = key(rng, extension)
    size = f',"size":{int(chance * 1e7)}' if chance > 0.2 else ""
    return (
        f'{{"type":"{type_}","name":"{storage_key[22:]}","link":"https://bucket.example.com/{storage_key}?X-Amz-Expires=3600",'
        f'"key":"{storage_key}"{size}}}'
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="a database that has the product's tables")
    parser.add_argument("--lessons", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    generate(chosen.url, chosen.lessons, seed=chosen.seed)
