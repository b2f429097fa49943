"""omt's own functions: chapters as people write them, verses in a file's name, clean names."""

from __future__ import annotations

from pathlib import Path

import pytest

from resettle.sandbox.module import module_at

FOLDER = Path(__file__).parents[2] / "migrations" / "omt"


functions = module_at(FOLDER / "functions.py")


@pytest.mark.parametrize(
    ("written", "book", "chapter", "path"),
    [
        ("gen-1", None, None, "gen/1"),
        ("GEN-1", None, None, "gen/1"),
        (" Gen 1 ", None, None, "gen/1"),
        ("gen-01", None, None, "gen/1"),
        ("gen_10", None, None, "gen/10"),
        ("1sam-3", None, None, "1sam/3"),
        ("1 Samuel 3", None, None, "1samuel/3"),
        ("2 Kings 1", "gen", "9", "2kings/1"),
        ("Song of Songs 2", None, None, "songofsongs/2"),
        ("19-23", None, None, "19/23"),
        ("", "19", "23", "19/23"),
        (None, "019", "023", "19/23"),
        ("  ", "Psalms", "23.0", "psalms/23"),
        (None, "19.0", "23", "19/23"),
        (None, "019.00", "23.0", "19/23"),
        (None, "1.9", "23", None),
        (None, "1 9", "23", None),
        ("19.0-23", None, None, None),
        (None, None, "23", None),
        ("gen", None, None, None),
        ("", "", "", None),
        ("gen-1-2x", None, None, None),
    ],
)
def test_a_chapter_is_read_however_it_is_written(
    written: str | None, book: str | None, chapter: str | None, path: str | None
) -> None:
    assert functions.chapter_path(written, book, chapter) == path


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("Bajhangi_2 Kings_Chapter001_V001_018.mp3", 1, 18),
        ("Bajhangi_Psalms_Chapter089_V027_052.mp3", 27, 52),
        ("English_John_Chapter003_V016.mp3", 16, 16),
        ("translations/x_V001_002/Lang_Genesis_Chapter001.mp3", None, None),
        ("Lang_V001_Genesis.mp3", None, None),
        ("Lang_Genesis_Chapter001_V003_004", 3, 4),
        ("bajhangi_psalms_chapter089_v027_052.mp3", 27, 52),
        ("Bajhangi_Psalms_Chapter089-V027-V052.mp3", 27, 52),
        ("Lang_Genesis_Chapter 1V3.mp3", 3, 3),
        ("Lang_Genesis_Chapter001_001_018.mp3", 1, 18),
        ("Lang_Genesis_Chapter001_018.mp3", None, None),
        ("translations/Chapter001_001_018/whole.mp3", None, None),
        (None, None, None),
    ],
)
def test_verses_are_those_that_the_end_of_a_files_name_says(
    name: str | None, first: int | None, last: int | None
) -> None:
    assert (functions.named_verse(name, 1), functions.named_verse(name, 2)) == (first, last)


@pytest.mark.parametrize(
    ("name", "unread"),
    [
        ("translations/Bajhangi_Psalms_Chapter089_V027_052 (1).mp3", True),
        ("Bajhangi_Psalms_Chapter089_V052_027.mp3", True),
        ("Lang_Genesis_Chapter001_018.mp3", True),
        ("lang_genesis_chapter001 take 2.MP3", True),
        ("Bajhangi_Psalms_Chapter089_V027_052.mp3", False),
        ("Lang_Genesis_Chapter001 (1).mp3", False),
        ("Chapter001_x1/Lang_Genesis_Chapter001.mp3", False),
        ("take 2.mp3", False),
        (None, False),
    ],
)
def test_a_name_that_says_more_than_the_chapter_but_no_verses_is_not_read_as_the_whole(
    name: str | None, unread: bool
) -> None:
    assert functions.unread_verses(name) == unread


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("translations/a/Bajhangi_2 Kings_Chapter001.mp3", "Bajhangi_2 Kings_Chapter001.mp3"),
        ("100% <a>|b\\c\td\né.mp3", "100percent ltagt-b-c_d_é.mp3"),
        ("translations/", None),
        (None, None),
    ],
)
def test_names_are_cleaned_as_the_new_backend_does(key: str | None, name: str | None) -> None:
    assert functions.clean_name(key) == name


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("2 Kings", "2kings"),
        ("1Sam.", "1sam"),
        ("019", "19"),
        ("0", "0"),
        (" 19.0 ", "19"),
        ("1.9", None),
        (" ", None),
        (None, None),
    ],
)
def test_a_books_name_has_no_case_and_no_spaces(name: str | None, word: str | None) -> None:
    assert functions.book_word(name) == word
