"""Made-up OMT data, with the traps that the real one has: same arguments, same records, files and Bible."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import psycopg

BIBLE_VERSION = "bible-version-protestant-standard"
PREFIX = "translations/"
MOMENT = 1739759690594
"""When the first audio file was made, in milliseconds since 1970; the others one after the other."""

Books = Mapping[str, tuple[str, int, Mapping[int, int]]]
"""Book id -> name, number, and verses by chapter."""

BOOKS: Books = {
    "gen": ("Genesis", 1, {1: 9, 2: 7, 3: 5}),
    "2kgs": ("2 Kings", 12, {1: 18, 2: 6}),
    "ps": ("Psalms", 19, {23: 4, 89: 52, 116: 19, 117: 2}),
    "john": ("John", 43, {3: 21}),
}
"""A small Bible of our own making."""

LANGUAGES = {
    "English": ("language", "eng", ["Inglis"]),
    "Nepali": ("language", "nep", []),
    "Nepali (western)": ("dialect", None, ["nepali"]),
    "Bajhangi": ("mother_tongue", "bjx", ["bajhangi_nepal"]),
    "Taj": ("mother_tongue", "tdj", ["taj_rasuwa"]),
    "Delta Pidgin": ("mother_tongue", None, ["Pidgin, Nigeria_Delta Pidgin"]),
    'Balochi "West"': ("language", "bgn", ["balochiwestern_afghanistan"]),
    "Greek, Hebrew": ("family", None, []),
    "Australian": ("dialect", None, ["english_australia"]),
}
"""Name -> level, ISO code, aliases."""


def language(name: str) -> str:
    """The id of a language of `LANGUAGES`."""
    return str(uuid5(NAMESPACE_URL, name))


AUSTRALIAN = "english_australia_OMT_1739757290594"
TAJ = "taj_rasuwa_OMT_1740457919243"
TAJ_AGAIN = "taj_rasuwa_OMT_1740457978039"
PIDGIN = "Pidgin, Nigeria_Delta Pidgin_OMT_1739320683377"
BALOCHI = "balochiwestern_afghanistan_OMT_1739320683999"
BAJHANGI = "bajhangi_nepal_OMT_1754634514201"
TRYOUT = "asdf_OMT_1739000000000"

TRANSLATIONS = {
    AUSTRALIAN: ("English", "english_australia"),
    TAJ: ("Nepali", "taj_rasuwa"),
    TAJ_AGAIN: ("Nepali", "taj_rasuwa"),
    PIDGIN: ("English ", "Pidgin, Nigeria_Delta Pidgin"),
    BALOCHI: ("Greek, Hebrew", "balochiwestern_afghanistan"),
    BAJHANGI: ("english", "bajhangi_nepal"),
    TRYOUT: ("sdfasdf", "asdf"),
}
"""Translation -> what people typed as source language, and the mother tongue."""

APPROVED = {
    AUSTRALIAN: ("English", "Australian"),
    TAJ: ("Nepali", "Taj"),
    TAJ_AGAIN: ("Nepali", "Taj"),
    PIDGIN: ("English", "Delta Pidgin"),
    BALOCHI: ("Greek, Hebrew", 'Balochi "West"'),
    BAJHANGI: ("English", "Bajhangi"),
}
"""What a person approves: translation -> source and target language. `TRYOUT` nobody approves."""


@dataclass
class Made:
    """Items of the three types, and files by key."""

    translations: list[dict[str, Any]] = field(default_factory=list)
    audio: list[dict[str, Any]] = field(default_factory=list)
    timestamps: list[dict[str, Any]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def file(
        self, id_: str, translation: str, written: str, name: str, times: list[float | None] | None, **more: Any
    ) -> None:
        """One audio file with its object and, unless None, its timestamps."""
        key = f"{PREFIX}{translation}/{name}"
        content = more.pop("content", f"not really sound: {id_}".encode())
        duration = (times or [0.0])[-1]
        record = {"id": id_, "translationId": translation, "bookChapter": written, "s3Key": key, "version": 1}
        record |= {"duration": 7.5 + (duration or 0), "fileSize": len(content or b"")}
        record["createdAt"] = moment(MOMENT + len(self.audio))
        self.audio.append(record | more)
        if content is not None:
            self.objects[key] = content
        if times is not None:
            self.timestamps.append({"id": f"times_{id_}", "audioFileId": id_, "timestamps": times})


def generate(
    chapters: int = 50, *, seed: int = 1, messy: bool = True, lost: bool = False, books: Books = BOOKS
) -> Made:
    """`chapters` ordinary files, and with `messy` every trap; with `lost` one file's object is not there."""
    made = Made()
    for id_, (source, tongue) in TRANSLATIONS.items():
        item = {"id": id_, "translationName": "OMT", "sourceLanguageId": source, "motherTongueId": tongue}
        user = None if id_ == PIDGIN else str(uuid5(NAMESPACE_URL, tongue))
        made.translations.append(item | {"userId": user, "createdAt": moment(MOMENT)})
    rng, places = Random(seed), [(book, at) for book in books for at in books[book][2]]
    for number in range(chapters):
        book, at = places[number % len(places)]
        translation = (AUSTRALIAN, TAJ, TAJ_AGAIN, PIDGIN, BALOCHI)[number // len(places) % 5]
        name, _, verses = books[book]
        file = f"{translation.split('_')[0]}_{name}_Chapter{at:03}_V001_{verses[at]:03}.mp3"
        made.file(f"audio-{number:05}", translation, f"{book}-{at}", file, times(rng, verses[at]))
    if messy:
        _traps(made)
    if lost:
        made.file("lost", BAJHANGI, "gen-2", "Bajhangi_Genesis_Chapter002.mp3", [0.0, 4.5], content=None)
    return made


def moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def times(rng: Random, verses: int) -> list[float]:
    found, at = [], 0.0
    for _ in range(verses):
        found.append(round(at, 2))
        at += 0.5 + rng.random() * 9
    return found


def _traps(made: Made) -> None:
    """Each in `BAJHANGI`, if not about the translation itself, and named after what is wrong with it."""
    whole = [0.0, 6.24, 13.87, 20.0, 31.5, 40.01, 52.25, 60.0, 71.0]
    spellings = {"upper": "GEN-1", "spaced": "Gen 1", "zeros": "gen-01", "named": "Genesis 1", "dotted": "2 Kings 2"}
    for name, written in spellings.items():
        made.file(f"spelt_{name}", BAJHANGI, written, f"spelt_{name}.mp3", whole[: 6 if name == "dotted" else 9])
    made.file("spelt_numbers", BAJHANGI, "", "numbers.mp3", whole[:4], book="19", chapter="23")
    made.file("unknown_chapter", BAJHANGI, "gen-99", "Bajhangi_Genesis_Chapter099.mp3", whole)
    made.file("unknown_book", BAJHANGI, "tob-1", "Bajhangi_Tobit_Chapter001.mp3", whole)
    made.file("no_chapter", BAJHANGI, "", "something.mp3", whole)
    made.file("fractions", BAJHANGI, "ps-117", "Bajhangi_Psalms_Chapter117.mp3", [0.0, 0.8, 5.0])
    made.file("fewer", BAJHANGI, "gen-1", "Bajhangi_Genesis_Chapter001.mp3", whole[:7])
    made.file("more", BAJHANGI, "gen-3", "Bajhangi_Genesis_Chapter003.mp3", whole[:7])
    made.file("unsorted", BAJHANGI, "ps-117", "unsorted.mp3", [6.24, 0.0])
    ranged = [round(3.3 * at, 2) for at in range(26)]
    made.file("ranged", BAJHANGI, "ps-89", "Bajhangi_Psalms_Chapter089_V027_052.mp3", ranged)
    made.file("copied_part", BAJHANGI, "ps-89", "Bajhangi_Psalms_Chapter089_V027_052 (1).mp3", ranged)
    made.file("backwards", BAJHANGI, "ps-89", "Bajhangi_Psalms_Chapter089_V052_027.mp3", ranged)
    made.file("lower_case", BAJHANGI, "ps-89", "bajhangi_psalms_chapter089_v027_052.mp3", ranged)
    made.file("other_chapter", BAJHANGI, "ps-117", "Bajhangi_Psalms_Chapter116.mp3", whole[:2])
    made.file("other_size", BAJHANGI, "ps-117", "other size.mp3", whole[:2], fileSize=1)
    made.file("lone_verse", BAJHANGI, "john-3", "English_John_Chapter003_V016.mp3", [0.5])
    made.file("beyond", BAJHANGI, "ps-117", "Bajhangi_Psalms_Chapter117_V001_009.mp3", whole)
    made.file("no_duration", BAJHANGI, "gen-2", "Bajhangi_Genesis_Chapter002_V001_003.mp3", whole[:3], duration=None)
    made.file("short_tail", BAJHANGI, "gen-2", "Bajhangi_Genesis_Chapter002_V004_007.mp3", whole[:4], duration=19.0)
    made.file("equal_times", BAJHANGI, "gen-3", "equal.mp3", [0.0, 2.0, 2.0])
    made.file("negative_time", BAJHANGI, "gen-3", "negative.mp3", [-1.0, 2.0])
    made.file("hole_in_times", BAJHANGI, "gen-3", "hole.mp3", [0.0, None, 2.0])
    made.file("no_times", BAJHANGI, "gen-3", "no times.mp3", [])
    made.file("without_times", BAJHANGI, "gen-3", "never timed.mp3", None)
    made.file("odd_name", BAJHANGI, "2kgs-1", "100% <Bajhangi>|2 Kings\té.MP3", whole)
    made.file("empty", BAJHANGI, "gen-1", "empty.mp3", whole, content=b"")
    made.file("tryout", TRYOUT, "gen-1", "asdf_Genesis_Chapter001.mp3", whole)
    for number in (1, 2):
        clash = {"createdAt": moment(MOMENT - 1), "version": number}
        made.file(f"same_key_{number}", BAJHANGI, "gen-3", f"{number}/take.mp3", whole[:5], **clash)
    made.timestamps.append({"id": "stray", "audioFileId": "nobody", "timestamps": [0.0]})


# -- the target --------------------------------------------------------------------------------------------


def real_bible(folder: Path) -> Books:
    """The Bible of `books.csv` and `chapters.csv` in a folder."""
    found: dict[str, tuple[str, int, dict[int, int]]] = {}
    for row in _csv(folder / "books.csv"):
        found[row["book_id"]] = (row["name"], int(row["book_number"]), {})
    for row in _csv(folder / "chapters.csv"):
        found[row["book_id"]][2][int(row["chapter_number"])] = int(row["total_verses"])
    return found


def _csv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def fill_target(url: str, books: Books = BOOKS) -> None:
    """What the target has before the migration: its Bible and its languages."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO bible_versions VALUES (%s, 'Protestant standard')", [BIBLE_VERSION])
        for id_, (name, number, chapters) in books.items():
            old = "old" if number < 40 else "new"
            cursor.execute("INSERT INTO books VALUES (%s, %s, %s, %s, %s)", (id_, name, number, old, BIBLE_VERSION))
            rows = [(f"{id_}-{at}", id_, at, count) for at, count in chapters.items()]
            cursor.executemany("INSERT INTO chapters VALUES (%s, %s, %s, %s)", rows)
        cursor.execute(
            "INSERT INTO verses SELECT id || '-' || n, id, n FROM chapters, generate_series(1, total_verses) n"
        )
        for name, (level, code, aliases) in LANGUAGES.items():
            cursor.execute(
                "INSERT INTO language_entities (id, name, level) VALUES (%s, %s, %s)", (language(name), name, level)
            )
            for alias in aliases:
                cursor.execute(
                    "INSERT INTO language_aliases (language_entity_id, alias_name) VALUES (%s, %s)",
                    (language(name), alias),
                )
            if code:
                cursor.execute(
                    "INSERT INTO language_entity_sources (language_entity_id, source, version, is_external,"
                    " external_id_type, external_id) VALUES (%s, 'SIL', '2025', true, 'iso-639-3', %s)",
                    (language(name), code),
                )
