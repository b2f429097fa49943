"""SQL functions of this migration: which observations a file's name speaks of, and what is wrong with it."""

from __future__ import annotations

import json
import re
import unicodedata

EXTENSIONS = frozenset({"jpg", "jpeg", "png", "gif", "mp4", "mov", "avi"})
MORE_EXTENSIONS = frozenset({"jfif", "wmv"})
OPTIONS = frozenset({"letters", "copies", "lists", "extensions", "prefixes", "invisible"})
RULES = {"seed": frozenset[str](), "real": OPTIONS - {"prefixes"}}
"""What `names` may say, beside single options: the seed's three patterns, or all that real folders hold."""

_NUMBER = "[0-9]{1,18}"  # not \d: other scripts' digits are no sequentialId; nor is what no integer of a database holds
_LETTER = "[a-z]"
_LETTERS = r"[\s-]*[^\W\d_]+"
_COPY = re.compile(r"( \([0-9]+\)| - Copy)+$", re.IGNORECASE)
_RANGE = re.compile(rf"({_NUMBER})-({_NUMBER})(.*)", re.DOTALL)


def sequential_ids(name: str, names: str, longest: int) -> str | None:
    """The sequentialIds of a name as a JSON list of text, in order, each once; null where `name_problem` is not."""
    found, problem = _read(name, _options(names), longest)
    return None if problem else json.dumps(found)


def name_problem(name: str, names: str, longest: int) -> str | None:
    """What a person must look at: `extension`, `pattern`, `descending` or `long_range`; null for a good name."""
    return _read(name, _options(names), longest)[1]


def extension(name: str) -> str:
    """What stands behind the last full stop, in small letters."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def _options(names: str) -> frozenset[str]:
    words = [word.strip() for word in names.split(",")]
    found = frozenset[str]().union(*(RULES.get(word, frozenset({word})) for word in words))
    if found - OPTIONS:
        raise ValueError(f"names: {', '.join(sorted(found - OPTIONS))}: expected {', '.join(sorted(OPTIONS))}")
    return found


def _read(name: str, options: frozenset[str], longest: int) -> tuple[list[str], str | None]:
    """The ids of a name, or what is wrong with it."""
    if "invisible" in options:
        name = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    known = EXTENSIONS | MORE_EXTENSIONS if "extensions" in options else EXTENSIONS
    if extension(name) not in known:
        return [], "extension"
    stem = name.rpartition(".")[0]
    if "copies" in options:
        stem = _COPY.sub("", stem)
    letter = _LETTERS if "letters" in options else _LETTER
    span = _RANGE.fullmatch(stem)
    if span and (not span[3] or ("letters" in options and re.fullmatch(letter, span[3]))):
        return _range(int(span[1]), int(span[2]), longest)
    prefix = "[A-Za-z]*" if "prefixes" in options else ""
    single = re.compile(rf"({prefix})({_NUMBER})(?:{letter})?")
    parts = re.split(r"\s*[,+]\s*", stem) if "lists" in options else [stem]
    matches = [single.fullmatch(part) for part in parts]
    found = [f"{match[1].upper()}{int(match[2])}" for match in matches if match]
    return (list(dict.fromkeys(found)), None) if len(found) == len(parts) else ([], "pattern")


def _range(first: int, last: int, longest: int) -> tuple[list[str], str | None]:
    if first > last:
        return [], "descending"
    if last - first >= longest:
        return [], "long_range"
    return [str(number) for number in range(first, last + 1)], None
