"""How alike two names are: camelCase and snake_case, singular and plural, words that say nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_SILENT = {"at", "on", "date", "time", "ts", "timestamp", "is", "has", "id", "key", "uuid"}
"""Words that tell a column's type rather than what it holds: `created` is `created_at`, `user` is `user_id`."""


def words(name: str) -> tuple[str, ...]:
    """The words of a name, lower case and singular: `userIDs`, `user_ids` and `User-Ids` are the same."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", re.sub(r"IDs\b", "Ids", name))
    return tuple(_singular(word) for word in re.split(r"[^a-z0-9]+", split.lower()) if word)


def folded(name: str) -> str:
    """The same for names that differ in nothing but their spelling."""
    return "".join(words(name))


def likeness(one: str, other: str) -> float:
    """From 0 to 1, by shared words or shared letters, whichever says more; 1 only for names that fold alike."""
    mine, theirs = set(words(one)), set(words(other))
    if folded(one) == folded(other):
        return 1.0
    loud, heard = mine - _SILENT, theirs - _SILENT
    if loud and loud == heard:
        return 0.9
    if loud and heard and (loud < heard or heard < loud):
        return 0.65
    letters = difflib.SequenceMatcher(None, "_".join(words(one)), "_".join(words(other))).ratio()
    shared = len(loud & heard) / len(loud | heard) if loud | heard else 0.0
    # Letters alone make cousins of `city` and `cite`: only near identity counts.
    return 0.9 * max(shared, letters if letters >= 0.85 else 0.0)


def without(name: str, table: str) -> str:
    """A column's name without its table's: `authorId` of authors is `id`."""
    mine, owner = words(name), words(table)
    for length in range(len(owner), 0, -1):
        if mine[:length] == owner[-length:] and len(mine) > length:
            return "_".join(mine[length:])
    return "_".join(mine)


def gist(name: str, table: str) -> str:
    """What a column's name says beside its type and its table: `is_vip` is `vip`, `createdAt` is `created`."""
    own = words(without(name, table))
    return "".join(word for word in own if word not in _SILENT) or "".join(own)


def slug(name: str, taken: Iterable[str] = ()) -> str:
    """A name that a declaration allows, unlike those that are taken."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "flow"
    plain = plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}"
    known, number, made = set(taken), 2, plain
    while made in known:
        made, number = f"{plain}_{number}", number + 1
    return made


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
