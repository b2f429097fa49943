"""SQL functions of this migration: how OMT's people write chapters, and what a file's name says."""

import re


def book_word(name: str) -> str | None:
    """A book's name, number or id without case, spaces and dots: `2 Kings` is `2kings`, `019` and `19.0` are `19`."""
    if name is None:
        return None
    word, number = re.sub(r"[\s._]+", "", name.lower()), re.fullmatch(r"\s*0*(\d+)(?:\.0+)?\s*", name)
    if re.fullmatch(r"\d*", word):  # digits that are no whole number are no book: `1.9` is not 19
        return number[1] if number else None
    return re.sub(r"^0+(?=\d)", "", word)


def chapter_path(book_chapter: str, book: str, chapter: str) -> str | None:
    """`book/number` of `gen-1`, `GEN-1`, `Gen 1`, `gen-01`, or else of book and chapter; null if neither says it."""
    found = re.fullmatch(r"\s*(.*?[^\W\d_].*?|\d+(?=[\s_:-]))[\s._:-]*0*(\d+)\s*", book_chapter or "")
    if found:
        return f"{book_word(found[1])}/{found[2]}"
    word, number = book_word(book or ""), re.fullmatch(r"\s*0*(\d+)(?:\.0)?\s*", chapter or "")
    return f"{word}/{number[1]}" if word and number else None


def named_verse(file_name: str, place: int) -> int | None:
    """The first (1) or last (2) verse of `..._Chapter089_V027_052.mp3`; a lone `V016` is both; null without any."""
    found = VERSES.search(file_name or "")
    return int(found[2] or found[1]) if found and place == 2 else int(found[1]) if found else None


def unread_verses(file_name: str) -> bool:
    """Whether a name says more than its chapter, but not which verses: `..._V027_052 (1).mp3`, `..._V052_027.mp3`."""
    first, last = named_verse(file_name, 1), named_verse(file_name, 2)
    if first is not None:
        return last < first
    after = re.search(r"chapter[ _-]?\d+([^/]*?)(?:\s*\(\d+\))?(?:\.[^./]*)?$", file_name or "", re.IGNORECASE)
    return bool(after and re.search(r"\d", after[1]))


def clean_name(key: str) -> str | None:
    """The last part of an object's key, as the new backend cleans the names of files; spaces stay."""
    if key is None:
        return None
    name = key.rpartition("/")[2].translate({ord(a): b for a, b in CLEANED.items()})
    return name or None


CLEANED = {"%": "percent", "\\": "-", "|": "-", "<": "lt", ">": "gt", "\t": "_", "\r": "_", "\n": "_"}
VERSES = re.compile(
    r"(?:[ _-]v|chapter[ _-]?\d+(?:v|[ _-](?=\d+[ _-]\d)))(\d+)(?:[ _-]v?(\d+))?(?=\.[^.]*$|$)", re.IGNORECASE
)
