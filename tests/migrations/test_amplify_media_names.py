"""What a file's name says, by the seed's rule and by what real folders taught: functions.py in DuckDB."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from resettle.mapping.functions import connect

FUNCTIONS = Path(__file__).parents[2] / "migrations" / "amplify-media-migrator" / "functions.py"
EXTENSION, PATTERN, DESCENDING, LONG = "extension", "pattern", "descending", "long_range"
SPAN = ["1200", "1201", "1202", "1203", "1204", "1205"]
BOTH = {
    "12345.jpg": ["12345"],
    "6602.JPG": ["6602"],
    "0006602.jpg": ["6602"],
    "6602.mp4": ["6602"],
    "6602a.jpg": ["6602"],
    "6602x.jpg": ["6602"],
    "6602b.MOV": ["6602"],
    "6602z.GIF": ["6602"],
    "6602.avi": ["6602"],
    "6000-6001.jpg": ["6000", "6001"],
    "1200-1205.mp4": SPAN,
    "100-100.jpg": ["100"],
    "1-100.png": [str(number) for number in range(1, 101)],
    "6001-6000.jpg": DESCENDING,
    "1-101.jpg": LONG,
    "1-2000000.jpg": LONG,
    "6000-6001-6002.jpg": PATTERN,
    "6000 - 6001.jpg": PATTERN,
    "6000–6001.jpg": PATTERN,  # noqa: RUF001
    ".jpg": PATTERN,
    "photo.jpg": PATTERN,
    "abc123.jpg": PATTERN,
    "6602.jpg.jpg": PATTERN,
    "E5.jpg": PATTERN,
    "٦٦٠٢.jpg": PATTERN,
    "6000/6001.jpg": PATTERN,
    f"{'1' * 19}.jpg": PATTERN,
    f"{'1' * 5000}.jpg": PATTERN,
    f"1-{'1' * 5000}.jpg": PATTERN,
    f"{'1' * 5000}-2a.jpg": PATTERN,
    "-6602.jpg": PATTERN,
    "6602": EXTENSION,
    "6602.": EXTENSION,
    "6602.pdf": EXTENSION,
    "6602.txt": EXTENSION,
    "6602.heic": EXTENSION,
    "6602.jpg ": EXTENSION,
    "6602.jpg\n": EXTENSION,
    "": EXTENSION,
}
"""The same either way: the ids, or what is wrong."""
REAL = {
    "6602A.jpg": ["6602"],
    "6602aa.jpg": ["6602"],
    "3826AA.jpg": ["3826"],
    "6602-a.jpg": ["6602"],
    "131-A.jpg": ["131"],
    "6602 a.jpeg": ["6602"],
    "1885-ק.jpg": ["1885"],
    "6602 (1).jpg": ["6602"],
    "6602 - Copy.jpg": ["6602"],
    "6602a - Copy (2).jpg": ["6602"],
    "6000-6001-A.jpg": ["6000", "6001"],
    "6000-6001 (1).jpg": ["6000", "6001"],
    "1200+1205.jpg": ["1200", "1205"],
    "5143a,5144a.mp4": ["5143", "5144"],
    "5730, 5731.jpg": ["5730", "5731"],
    "5730,5730.jpg": ["5730"],
    "66\u200f02.jpg": ["6602"],
}
"""Good names in real folders, which the seed's patterns refuse."""


@pytest.fixture(scope="module")
def db() -> duckdb.DuckDBPyConnection:
    return connect(FUNCTIONS)


def read(db: duckdb.DuckDBPyConnection, name: str, names: str = "seed") -> list[str] | str:
    """The ids, or what is wrong: never both, never neither."""
    ids, problem = db.execute(
        "SELECT sequential_ids(n, o, 100), name_problem(n, o, 100) FROM (SELECT ? AS n, ? AS o)", [name, names]
    ).fetchall()[0]
    assert (ids is None) != (problem is None)
    return problem if ids is None else list(json.loads(ids))


@pytest.mark.parametrize(("name", "means"), [*BOTH.items(), *((name, PATTERN) for name in REAL)])
def test_by_default_a_name_means_what_the_seeds_three_patterns_say(
    db: duckdb.DuckDBPyConnection, name: str, means: list[str] | str
) -> None:
    assert read(db, name) == means


@pytest.mark.parametrize(("name", "means"), [*BOTH.items(), *REAL.items()])
def test_names_of_real_folders_are_read_where_the_migration_says_so(
    db: duckdb.DuckDBPyConnection, name: str, means: list[str] | str
) -> None:
    assert read(db, name, "real") == means


@pytest.mark.parametrize(
    ("option", "name", "means"),
    [
        ("letters", "6602A.jpg", ["6602"]),
        ("letters", "6602 (1).jpg", PATTERN),
        ("copies", "6602 (1).jpg", ["6602"]),
        ("copies", "6602A.jpg", PATTERN),
        ("lists", "1200+1205.jpg", ["1200", "1205"]),
        ("lists", "1200+.jpg", PATTERN),
        ("extensions", "6602.jfif", ["6602"]),
        ("extensions", "6602.WMV", ["6602"]),
        ("seed", "6602.wmv", EXTENSION),
        ("invisible", "\u200f6602.jpg", ["6602"]),
        ("prefixes", "E5.jpg", ["E5"]),
        ("prefixes", "e005b.jpg", ["E5"]),
        ("prefixes, lists", "E5+6.jpg", ["E5", "6"]),
        ("real, prefixes", "E5-a.jpg", ["E5"]),
    ],
)
def test_each_option_lets_in_just_its_own_names(
    db: duckdb.DuckDBPyConnection, option: str, name: str, means: list[str] | str
) -> None:
    assert read(db, name, option) == means


def test_an_option_that_is_none_is_refused(db: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error, match="copys: expected copies, extensions"):
        read(db, "1.jpg", "copys")


def test_an_extension_is_what_stands_behind_the_last_full_stop(db: duckdb.DuckDBPyConnection) -> None:
    assert db.execute("SELECT extension('6602.JPG'), extension('jpg'), extension('a.b.Mp4')").fetchall() == [
        ("jpg", "", "mp4")
    ]
