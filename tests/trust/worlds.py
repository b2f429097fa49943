"""Small and nasty worlds: mappings of every form and mode, their tables, and what their source and owners may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from resettle.batch import Column, ForeignKey, Kind, Schema
from tests.engine.test_units import FLOWS as LESSONS

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Field:
    """A column of a target's table; ``choices`` are a CHECK, ``points`` at a table's only key column."""

    name: str
    kind: Kind = Kind.TEXT
    required: bool = False
    unique: bool = False
    choices: tuple[str, ...] | None = None
    points: str | None = None
    default: str | None = None


@dataclass(frozen=True)
class Table:
    """A table of the target. ``theirs``: what its owners may put into a column, by column."""

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...] = ("id",)
    theirs: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    """Columns that a row which they insert has beside the key."""

    @property
    def inserted(self) -> bool:
        """Whether its owners make rows of it."""
        return set(self.key) <= self.theirs.keys()

    def ddl(self, kind: str) -> str:
        types = {
            Kind.TEXT: "TEXT",
            Kind.INT32: "INTEGER",
            Kind.NUMERIC: "NUMERIC",
            Kind.UUID: "UUID",
            Kind.JSON: "JSONB" if kind == "postgres" else "TEXT",
        }
        parts = []
        for one in self.fields:
            words = [one.name, types[one.kind]]
            words += ["NOT NULL"] if one.required else []
            words += ["UNIQUE"] if one.unique else []
            words += [f"DEFAULT '{one.default}'"] if one.default else []
            words += [f"CHECK ({one.name} IN ({', '.join(map(repr, one.choices))}))"] if one.choices else []
            words += [f"REFERENCES {one.points}"] if one.points else []
            parts.append(" ".join(words))
        return f"CREATE TABLE {self.name} ({', '.join(parts)}, PRIMARY KEY ({', '.join(self.key)}))"

    def schema(self, tables: Mapping[str, Table]) -> Schema:
        columns = tuple(
            Column(one.name, one.kind, nullable=not (one.required or one.name in self.key), choices=one.choices)
            for one in self.fields
        )
        links = tuple(
            ForeignKey(f"{self.name}_{one.name}_fkey", (one.name,), one.points, tables[one.points].key)
            for one in self.fields
            if one.points
        )
        unique = tuple((one.name,) for one in self.fields if one.unique)
        return Schema(self.name, columns, self.key, unique, links)


@dataclass(frozen=True)
class World:
    """``flows``: the mappings that people switch between; ``records``: what a source dataset may hold."""

    name: str
    flows: tuple[str, ...]
    tables: tuple[Table, ...]
    records: Mapping[str, st.SearchStrategy[Rows]]
    plain: Mapping[str, Rows] = field(default_factory=dict)
    """Records with nothing wrong, with which every history begins."""
    extra: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    patched: Mapping[str, str] = field(default_factory=dict)
    """Table -> the column of which a patch may change places."""
    kinds: tuple[str, ...] = ("memory", "sqlite", "postgres")


def listed(record: st.SearchStrategy[dict[str, Any]], most: int = 6, least: int = 0) -> st.SearchStrategy[Rows]:
    return st.lists(record, min_size=least, max_size=most)


def mostly(usual: list[Any], odd: list[Any]) -> st.SearchStrategy[Any]:
    """One of the usual values three times out of four, so that most records can be kept and some cannot."""
    return st.integers(0, 3).flatmap(lambda lot: st.sampled_from(odd if lot == 3 else usual))


KEYS = mostly(["p0", "p1", "p2", "a/b%"], ["p3", "ü 👩‍👩‍👧'\"", "", None, 7])
TEXTS = mostly(["Anna", "Bert", "Carl", "é 👩‍👩‍👧 %s ' \""], ["", None, "nul\x00", "0012", "1e3", "null"])
NUMBERS = mostly([1, "2", 3, None, -1], ["old", 2.5, 2**40, "3.0", True])
DIGITS = mostly(
    ["7", 1.10, None], ["12345678901234567890123456789012345678", "0.1000000000000000000000000001", "12.50"]
)

# -- one table, every column form, every policy ------------------------------------------------------

PEOPLE = """
people:
  from: src.people
  unit: id
  on_conflict: {policy}
  skip: {{out: "kind = 'skip'"}}
  hold: {{doubtful: "kind = 'hold'"}}
  warn: {{odd: "kind = 'warn'"}}
  into: app.people
  columns:
    id: id
    name: {name}
    {age}
    amount: amount
    email: email
    level: level
    town: {{lookup: towns, on: town}}
    origin: {{value: old}}
    boss: boss
    token: {{mint: uuid}}
    version: {{create: "1", update: target.version + 1}}
"""
PEOPLE_WORLD = World(
    "people",
    (
        PEOPLE.format(policy="hold", name="name", age="age: age"),
        PEOPLE.format(policy="source", name="name", age="age: age"),
        PEOPLE.format(policy="target", name="name", age="age: age"),
        PEOPLE.format(policy="hold", name="upper(name)", age="note: \"'n'\""),
    ),
    (
        Table(
            "people",
            (
                Field("id"),
                Field("name", required=True),
                Field("age", Kind.INT32),
                Field("amount", Kind.NUMERIC),
                Field("email", unique=True),
                Field("level", choices=("low", "high")),
                Field("town"),
                Field("origin"),
                Field("boss", points="people"),
                Field("token", Kind.UUID),
                Field("version", Kind.INT32),
                Field("note"),
            ),
            theirs={
                "id": st.sampled_from(["p0", "p1", "p2", "p3", "x"]),
                "name": st.sampled_from(["Anna", "ANNA", "Theirs"]),
                "age": st.sampled_from([1, 99, None]),
                "email": st.sampled_from(["a@x", "c@x", None]),
                "note": st.sampled_from(["seen", "n", None]),
                "version": st.sampled_from([7]),
            },
            asked=("name",),
        ),
    ),
    {
        "people": listed(
            st.fixed_dictionaries(
                {"id": KEYS, "name": TEXTS},
                optional={
                    "age": NUMBERS,
                    "amount": DIGITS,
                    "email": mostly([None], ["a@x", "b@x"]),
                    "level": mostly(["low", "high"], ["odd"]),
                    "town": mostly(["k"], ["zz", None]),
                    "boss": mostly([None], ["p0", "p1", "p3", "nobody"]),
                    "kind": mostly([None], ["skip", "hold", "warn"]),
                },
            )
        )
    },
    plain={"people": [{"id": f"p{n}", "name": "Anna", "age": n, "level": "low", "town": "k"} for n in range(3)]},
    extra="lookups:\n  towns: {file: towns.csv, key: code, value: name}",
    files={"towns.csv": "code,name\nk,Köln\n"},
)

# -- units of several outputs, references to minted keys, rows that are left out or wait ---------------

BOOKS = """
writers:
  from: src.writers
  unit: code
  into: app.writers
  columns: {id: {mint: uuid}, code: code, name: name}
books:
  from: src.books
  unit: isbn
  outputs:
    book:
      into: app.books
      columns: {id: isbn, writer: {ref: writers, on: writer}, title: TITLE}
    card:
      into: app.cards
      when: "title <> 'no card'"
      columns: {id: "'card of ' || isbn", book: book.id, level: level}
tags:
  from: src.books
  unit: isbn
  rows: |
    select source.*, unnest(from_json(tags, '["VARCHAR"]')) as tag from source
  skip_rows: {blank: "tag = ''"}
  partial_rows: {waiting: "tag = 'wait'"}
  outputs:
    tag:
      into: app.tags
      key: [book, n]
      columns: {book: isbn, n: _n, tag: tag}
"""
BOOKS_WORLD = World(
    "books",
    (BOOKS.replace("TITLE", "title"), BOOKS.replace("TITLE", "trim(title) || '.'")),
    (
        Table(
            "writers",
            (Field("id", Kind.UUID), Field("code", required=True), Field("name", required=True)),
            theirs={"name": st.sampled_from(["Theirs", "Jean"])},
        ),
        Table(
            "books",
            (Field("id"), Field("writer", Kind.UUID, points="writers"), Field("title", required=True), Field("note")),
            theirs={
                "id": st.sampled_from(["b0", "b1", "x"]),
                "title": st.sampled_from(["See", "Theirs"]),
                "note": st.sampled_from(["seen"]),
            },
            asked=("title",),
        ),
        Table(
            "cards",
            (Field("id"), Field("book", required=True, points="books"), Field("level", choices=("low", "high"))),
            theirs={
                "id": st.sampled_from(["card of b0", "x"]),
                "book": st.sampled_from(["b0", "b1"]),
                "level": st.sampled_from(["low", "high"]),
            },
            asked=("book",),
        ),
        Table(
            "tags",
            (Field("book", points="books"), Field("n", Kind.INT32), Field("tag")),
            ("book", "n"),
            theirs={
                "book": st.sampled_from(["b0", "b1"]),
                "n": st.sampled_from([0, 1, 5]),
                "tag": st.sampled_from(["mine"]),
            },
        ),
    ),
    {
        "writers": listed(
            st.fixed_dictionaries({"code": st.sampled_from(["w0", "w1", "w2", "ü/%"]), "name": TEXTS}), 4
        ),
        "books": listed(
            st.fixed_dictionaries(
                {
                    "isbn": mostly(["b0", "b1", "b2"], ["b3", "", None]),
                    "writer": mostly(["w0", "w1"], ["w2", "nobody", None]),
                    "title": mostly(["See", " Mer ", "Berg"], ["no card", None]),
                    # a `rows:` query asks for it, so the source must have shown it
                    "tags": st.lists(st.sampled_from(["a", "", "wait", "ü"]), max_size=3),
                },
                optional={"level": mostly(["low", "high"], ["odd"])},
            ),
            5,
            1,
        ),
    },
    plain={
        "writers": [{"code": f"w{n}", "name": "Jean"} for n in range(2)],
        "books": [{"isbn": f"b{n}", "writer": "w0", "title": "See", "tags": ["a", "b"]} for n in range(2)],
    },
)

# -- rows that are shared, and keys that come twice ------------------------------------------------------

VISITS = """
visits:
  from: src.visits
  unit: id
  outputs:
    place:
      into: app.places
      match: [town, street]
      columns: {id: {mint: uuid}, town: town, street: street, title: TITLE}
    visit:
      into: app.visits
      columns: {id: id, place: place.id, level: level}
twins:
  from: src.visits
  unit: id
  into: app.twins
  on_duplicate_key: {id: "coalesce(mail, 'none') || '/' || source.id"}
  columns: {id: "coalesce(mail, 'none')", town: town}
"""
VISITS_WORLD = World(
    "visits",
    (VISITS.replace("TITLE", "title"), VISITS.replace("TITLE", "upper(title)")),
    (
        Table(
            "places",
            (Field("id", Kind.UUID), Field("town"), Field("street"), Field("title"), Field("note")),
            theirs={
                "id": st.sampled_from([f"00000000-0000-4000-8000-00000000000{n}" for n in range(3)]),
                "town": st.sampled_from(["Ulm", "Köln"]),
                "street": st.sampled_from(["Weg", None]),
                "title": st.sampled_from(["T", "theirs"]),
                "note": st.sampled_from(["seen"]),
            },
            asked=("town", "street"),
        ),
        Table(
            "visits",
            (Field("id"), Field("place", Kind.UUID, points="places"), Field("level", choices=("low", "high"))),
            theirs={"id": st.sampled_from(["v0", "v1", "x"]), "level": st.sampled_from(["low"])},
        ),
        Table(
            "twins",
            (Field("id"), Field("town")),
            theirs={"id": st.sampled_from(["a@x", "a@x/v1"]), "town": st.sampled_from(["Ulm", "Bonn"])},
        ),
    ),
    {
        "visits": listed(
            st.fixed_dictionaries(
                {
                    "id": st.sampled_from(["v0", "v1", "v2", "v3"]),
                    "town": st.sampled_from(["Ulm", "Köln", None]),
                    "street": st.sampled_from(["Weg", None]),
                },
                optional={
                    "title": mostly(["T", "t"], ["bad\x00"]),
                    "level": mostly(["low", "high"], ["odd"]),
                    "mail": st.sampled_from(["a@x", "b@x"]),
                },
            )
        )
    },
    plain={"visits": [{"id": f"v{n}", "town": "Ulm", "street": "Weg", "title": "T", "mail": "a@x"} for n in range(3)]},
)

# -- documents of a live table, patched in place -----------------------------------------------------------

ITEMS = st.lists(
    st.one_of(
        st.sampled_from(["text", None, 1.5]),
        st.fixed_dictionaries(
            {"type": st.just("upload"), "key": st.sampled_from(["k1", "k2", "ü"])},
            optional={"title": st.sampled_from(["T", ""]), "assetId": st.sampled_from(["nonsense"])},
        ),
        st.fixed_dictionaries({"type": st.just("link"), "url": st.sampled_from(["u1", "u2"])}),
        st.just({"type": "upload"}),
    ),
    max_size=4,
)
LESSONS_WORLD = World(
    "lessons",
    (LESSONS,),
    (
        Table(
            "assets",
            (
                Field("id", Kind.UUID),
                Field("org", required=True),
                Field("provider", required=True),
                Field("storage_key"),
                Field("url"),
                Field("title"),
                Field("status", required=True, choices=("active", "archived"), default="active"),
            ),
            theirs={
                "id": st.sampled_from([f"00000000-0000-4000-8000-00000000000{n}" for n in range(3)]),
                "org": st.just("o1"),
                "provider": st.sampled_from(["upload", "link"]),
                "storage_key": st.sampled_from(["k1", "k2", None]),
                "url": st.sampled_from(["u1", None]),
                "title": st.sampled_from(["Theirs"]),
                "status": st.sampled_from(["active", "archived"]),
            },
            asked=("org", "provider", "storage_key", "url", "status"),
        ),
        Table(
            "usages",
            (
                Field("id", Kind.UUID),
                Field("asset_id", Kind.UUID, required=True, points="assets"),
                Field("lesson", required=True),
                Field("slot"),
                Field("position", Kind.INT32),
            ),
        ),
        Table(
            "lessons",
            (Field("id"), Field("items", Kind.JSON), Field("note")),
            theirs={
                "id": st.sampled_from(["l0", "l1", "l2"]),
                "items": ITEMS,
                "note": st.sampled_from(["seen"]),
            },
            asked=("items",),
        ),
    ),
    {},
    patched={"lessons": "items"},
    kinds=("sqlite", "postgres"),
)

WORLDS = {world.name: world for world in (PEOPLE_WORLD, BOOKS_WORLD, VISITS_WORLD, LESSONS_WORLD)}
