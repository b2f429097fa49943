"""pairing: which dataset of one side is which of the other, and which of their columns are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from resettle.batch import Column, Schema
from resettle.engine.drafting.alike import folded, gist, likeness, without
from resettle.engine.drafting.propose import TEXTS, propose
from resettle.engine.drafting.survey import Seen, Side
from resettle.errors import ConfigError
from resettle.mapping.load import suggest

ENOUGH = 0.45
"""Datasets that score less, by their names and their columns' names, are not taken for each other."""
_CLOSE = 0.3
_LIKE = 0.6


@dataclass(frozen=True)
class Pair:
    """A source dataset and what it becomes; ``doubt`` says why that is not certain."""

    source: Schema
    target: Schema
    doubt: str | None = None


@dataclass(frozen=True)
class Pairs:
    """The pairs, and what found none: its name, and the closest of the other side where there is one."""

    pairs: tuple[Pair, ...]
    unpaired_source: Mapping[str, str | None]
    unpaired_target: Mapping[str, str | None]


@dataclass(frozen=True)
class Match:
    """The source column for a target column."""

    column: Column
    doubt: str | None = None


def pair(old: Side, new: Side, chosen: Mapping[str, str] | None = None) -> Pairs:
    """Pair the datasets of two sides: as ``chosen``, else by equal names, else by likeness of names and columns.

    Each dataset is in one pair at most. Raises ConfigError where ``chosen`` names what is not there.
    """
    found: dict[str, Pair] = {}
    for source, target in (chosen or {}).items():
        for name, side in ((source, old), (target, new)):
            if name not in side.schemas:
                raise ConfigError(f"{side.connection} has no dataset `{name}`", hint=suggest(name, side.schemas))
        found[target] = Pair(old.schemas[source], new.schemas[target])
    scores = _scores(old, new)
    for same in (True, False):
        for (source, target), score in sorted(scores.items(), key=lambda item: (-item[1], item[0])):
            taken = target in found or any(one.source.dataset == source for one in found.values())
            if taken or (folded(source) == folded(target)) is not same or (not same and score < ENOUGH):
                continue
            doubt = (
                None if same else f"paired by likeness ({min(score, 0.99):.0%}): is `{source}` what becomes `{target}`?"
            )
            found[target] = Pair(old.schemas[source], new.schemas[target], doubt)
    sources = {one.source.dataset for one in found.values()}
    return Pairs(
        tuple(sorted(found.values(), key=lambda one: list(new.schemas).index(one.target.dataset))),
        {name: _closest(name, 0, scores) for name in old.schemas if name not in sources},
        {name: _closest(name, 1, scores) for name in new.schemas if name not in found},
    )


def _scores(old: Side, new: Side) -> dict[tuple[str, str], float]:
    """0.4 for the names and 0.6 for the columns that both have, those that every dataset has counting little.

    0.2 more where columns of one name, in datasets of one name, point at them. Strangers by name need three columns.
    """
    gists = {
        (side, name): {gist(column, name) for column in schema.names}
        for side, schemas in ((0, old.schemas), (1, new.schemas))
        for name, schema in schemas.items()
    }
    datasets = Counter(column for columns in gists.values() for column in columns)

    def weight(columns: Iterable[str]) -> float:
        return sum(1 / max(datasets[column], 2) for column in columns)

    scores = {}
    for source in old.schemas:
        for target in new.schemas:
            one, other, name = gists[0, source], gists[1, target], likeness(source, target)
            both, left = weight(one & other), weight(one ^ other)
            # A renamed table also lost and gained columns: what only one side has counts half.
            columns = both / (both + left / 2) if both and (name or len(one & other) >= 3) else 0.0
            scores[source, target] = 0.4 * name + 0.6 * columns
    for pointed in _pointed_at(old, new):
        scores[pointed] += 0.2
    return scores


def _pointed_at(old: Side, new: Side) -> set[tuple[str, str]]:
    """What foreign keys of the same name, in datasets of the same name, point at on both sides."""
    found = set()
    for source in old.schemas.values():
        for target in new.schemas.values():
            if folded(source.dataset) == folded(target.dataset):
                for mine in source.foreign_keys:
                    for theirs in target.foreign_keys:
                        if [*map(folded, mine.columns)] == [*map(folded, theirs.columns)]:
                            found.add((mine.target, theirs.target))
    return {(one, other) for one, other in found if one in old.schemas and other in new.schemas}


def _closest(name: str, side: int, scores: Mapping[tuple[str, str], float]) -> str | None:
    near = [(score, pair[1 - side]) for pair, score in scores.items() if pair[side] == name and score >= _CLOSE]
    return max(near)[1] if near else None


def match_columns(one: Pair, pairs: Iterable[Pair], seen: Mapping[str, Seen]) -> dict[str, Match]:
    """The source column for each target column that has one; each source column serves one target column."""
    found: dict[str, Match] = {}
    free = {column.name: column for column in one.source.columns}
    writable = [column for column in one.target.columns if not column.generated]

    def take(target: str, source: str, doubt: str | None = None) -> None:
        found[target] = Match(free.pop(source), doubt)

    for target, source in _by_reference(one, pairs).items():
        take(target, source)
    for spelling in (_whole_name, _own_name):
        for column in writable:
            by_name = {spelling(name, one.source.dataset): name for name in reversed(list(free))}
            name = by_name.get(spelling(column.name, one.target.dataset))
            if column.name not in found and name is not None:
                take(column.name, name)
    if len(one.target.key) == len(one.source.key) == 1:
        target, source = one.target.key[0], one.source.key[0]
        if target not in found and source in free and one.target.column(target) in writable:
            take(target, source, f"`{source}` is the key there, by another name")
    likely = sorted(_likely(one, [c for c in writable if c.name not in found], list(free.values()), seen))
    for _, target, source in likely:
        if target not in found and source in free:
            take(target, source, f"`{source}` has the likest name there: is it the same?")
    return found


def _by_reference(one: Pair, pairs: Iterable[Pair]) -> dict[str, str]:
    """Columns whose foreign keys point at the two datasets of a pair, where there is one on each side."""
    found = {}
    for other in pairs:
        source = [k.columns for k in one.source.foreign_keys if k.target == other.source.dataset]
        target = [k.columns for k in one.target.foreign_keys if k.target == other.target.dataset]
        if len(source) == len(target) == 1 and len(source[0]) == len(target[0]) == 1:
            found[target[0][0]] = source[0][0]
    return found if len(set(found.values())) == len(found) else {}


def _whole_name(name: str, dataset: str) -> str:
    return folded(name)


def _own_name(name: str, dataset: str) -> str:
    return folded(without(name, dataset))


def _likely(
    one: Pair, targets: list[Column], sources: list[Column], seen: Mapping[str, Seen]
) -> Iterable[tuple[float, str, str]]:
    """Columns with like names where the one can become the other: (minus the score, target, source)."""
    for target in targets:
        for source in sources:
            score = likeness(without(source.name, one.source.dataset), without(target.name, one.target.dataset))
            made = propose(source, seen.get(source.name, Seen()), target)
            strained = made.doubt and source.kind in TEXTS and target.kind not in TEXTS
            if score >= _LIKE and made.expression and not strained:
                yield -score, target.name, source.name
