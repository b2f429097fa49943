"""draft: a first mapping out of the catalogues of both sides; what a person must settle is marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from resettle.batch import Column, ForeignKey, Kind, Schema
from resettle.connector import Source, Target
from resettle.engine.drafting.alike import folded, slug, without
from resettle.engine.drafting.pairing import Match, Pair, Pairs, match_columns, pair
from resettle.engine.drafting.propose import WHOLE, propose, reference, undecided
from resettle.engine.drafting.survey import Seen, Side, sample, survey
from resettle.errors import ConfigError
from resettle.mapping.sql import UNDECIDED

_MINT: Mapping[str, str] = {"mint": "uuid"}
_MOSTLY = 0.9
"""So much of an id's values must differ: a record that is there twice does not make it another thing."""
_IDS = ("id", "uuid", "guid", "key", "pk", "code", "number")


@dataclass(frozen=True)
class Mapped:
    """A target column and its value as a declaration has it: an expression, or `ref:` or `mint:` as a mapping."""

    column: str
    form: str | Mapping[str, str]
    doubt: str | None = None


@dataclass(frozen=True)
class DraftedFlow:
    """One pair as a flow. ``by`` is `key` or `match` where ``names`` must be said; ``notes`` are for reading."""

    name: str
    pair: Pair
    unit: tuple[str, ...]
    unit_doubt: str | None
    columns: tuple[Mapped, ...]
    by: str | None = None
    names: tuple[str, ...] = ()
    by_doubt: str | None = None
    not_carried: tuple[str, ...] = ()
    not_written: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    order_doubt: str | None = None


@dataclass(frozen=True)
class Draft:
    """The flows in an order in which what is pointed at comes first, and what found no partner."""

    source: str
    target: str
    flows: tuple[DraftedFlow, ...]
    pairs: Pairs


def draft_between(old: Source, new: Source, chosen: Mapping[str, str] | None = None) -> Draft:
    """Look at both sides, at catalogues and the first records of paired sources, and draft. Writes nothing.

    ``chosen`` pairs datasets by hand, source name to target name. Raises ConfigError where nothing pairs.
    """
    if not isinstance(new, Target):
        raise ConfigError(f"`{new.name}` can only be read, it cannot be a target")
    sides = survey(old), survey(new)
    pairs = pair(*sides, chosen)
    if not pairs.pairs:
        raise ConfigError(_nothing(*sides), hint="name two that belong together: --pair SOURCE=TARGET")
    seen = {one.source.dataset: sample(old, one.source) for one in pairs.pairs}
    return draft(pairs, seen, old.name, new.name)


def _nothing(old: Side, new: Side) -> str:
    listed = "; ".join(f"{s.connection} has {', '.join(list(s.schemas)[:20]) or 'nothing'}" for s in (old, new))
    return f"no two datasets are alike: {listed}"


def draft(pairs: Pairs, seen: Mapping[str, Mapping[str, Seen]], source: str = "old", target: str = "new") -> Draft:
    """Draft a flow for each pair. ``seen`` is what the first records of a source hold, by dataset and column."""
    names: dict[str, str] = {}
    for one in pairs.pairs:
        names[one.target.dataset] = slug(one.target.dataset, names.values())
    made = [_Flow(one, pairs.pairs, names, seen.get(one.source.dataset, {})) for one in pairs.pairs]
    keys = {one.pair.target.dataset: one for one in made}
    return Draft(source, target, _ordered([one.drafted(keys.__getitem__) for one in made]), pairs)


class _Flow:
    """One pair while it is drafted: the flows of other pairs ask how its keys are carried."""

    def __init__(self, one: Pair, pairs: Sequence[Pair], names: Mapping[str, str], seen: Mapping[str, Seen]) -> None:
        self.pair, self.name, self._names = one, names[one.target.dataset], names
        self._seen, self._source, self._target = seen, one.source, one.target
        self._matches = match_columns(one, pairs, seen)
        self.unit, self._unit_doubt = _unit(one.source, seen)
        self.key_form = self._key_form()

    def _key_form(self) -> Mapped | None:
        """How a single key column gets its value: None where the key is carried over as any other column is."""
        if len(self._target.key) != 1:
            return None
        column, match = self._column(self._target.key[0]), self._matches.get(self._target.key[0])
        if match is not None and propose(match.column, self._look(match), column).expression is not None:
            return None
        if column.kind is Kind.UUID and not column.generated:
            # None of the source's own columns can be the key: the id is made, and remembered for references.
            why = f"the keys of {self._source.dataset} are no uuids: new ids are made, and remembered in the ledger"
            return Mapped(column.name, _MINT, why)
        said = f"`{match.column.name}` does not become {column.kind}" if match else "nothing there is its key"
        return Mapped(column.name, undecided(said), "the target's key: map it, or use match: with a natural key")

    def drafted(self, of: Callable[[str], _Flow]) -> DraftedFlow:
        """The flow; ``of`` gives the flow that fills a target dataset (KeyError where none does)."""
        columns = [made for column in self._target.columns if (made := self._value(column, of)) is not None]
        by, names, doubt = self._by(columns)
        if by == "match":
            columns = [made for made in columns if made.column not in self._target.key]
        mapped = {made.column: made for made in columns}
        carried = {name for name, made in mapped.items() if made.form != _MINT}
        used = {match.column.name for name, match in self._matches.items() if name in carried}
        return DraftedFlow(
            self.name,
            self.pair,
            self.unit,
            self._unit_doubt,
            tuple(columns),
            by,
            names,
            doubt,
            not_carried=tuple(name for name in self._source.names if name not in used),
            not_written=tuple(name for name in self._target.names if name not in mapped),
            notes=tuple(self._notes(columns)),
        )

    def _value(self, column: Column, of: Callable[[str], _Flow]) -> Mapped | None:
        """The column's value, or None where it is left to the target."""
        if column.generated:
            return None
        match = self._matches.get(column.name)
        if self.key_form is not None and column.name == self.key_form.column:
            return self.key_form
        if match is None:
            if column.nullable or (column.has_default and column.name not in self._target.key):
                return None
            why = "NOT NULL without a default, and nothing there resembles it"
            return Mapped(column.name, undecided("no source"), why)
        return self._pointing(column, match, of) or self._plain(column, match)

    def _plain(self, column: Column, match: Match) -> Mapped:
        made = propose(match.column, self._look(match), column)
        doubts = [doubt for doubt in (match.doubt, made.doubt) if doubt]
        return Mapped(column.name, made.expression or undecided("see the mark"), "; ".join(doubts) or None)

    def _pointing(self, column: Column, match: Match, of: Callable[[str], _Flow]) -> Mapped | None:
        """A column that points at another dataset's key, where that key is not what it was in the source."""
        key = next((key for key in self._target.foreign_keys if key.columns == (column.name,)), None)
        if key is None:
            return None
        if key.target not in self._names:
            made = self._plain(column, match)
            doubt = f"points at {key.target}, which no flow here fills"
            return replace(made, doubt=f"{made.doubt}; {doubt}" if made.doubt else doubt)
        other = of(key.target)
        if other.key_form is None or key.target_columns != other.pair.target.key:
            return None
        if other.key_form.form == _MINT and other is not self and len(other.unit) == 1:
            return Mapped(column.name, {"ref": other.name, "on": reference(match.column.name)}, match.doubt)
        said = "this flow's own new ids" if other is self else f"the new ids of {other.name}"
        return Mapped(column.name, undecided(f"points at {said}"), "a ref: cannot be proposed here; a second flow can")

    def _by(self, columns: Sequence[Mapped]) -> tuple[str | None, tuple[str, ...], str | None]:
        """`key:` or `match:`, where the target's primary key cannot tell which row is which."""
        settled = {made.column for made in columns if not _is_open(made)}
        natural = next((names for names in self._target.unique if set(names) <= settled), None)
        if not self._target.key:
            if natural:
                return "key", natural, None
            return None, (), "no primary key: name columns that tell its rows apart, as key: or match:"
        column = self._target.column(self._target.key[0])
        open_key = self.key_form is not None and _is_open(self.key_form)
        if natural and open_key and column is not None and (column.has_default or column.generated):
            return "match", natural, "the target numbers its rows itself: a row that has these is reused, else made"
        return None, (), None

    def _notes(self, columns: Sequence[Mapped]) -> Sequence[str]:
        for name in self._target.key if len(self._target.key) == 1 else ():
            column = self._column(name)
            if column.kind in WHOLE and column.has_default and any(made.column == name for made in columns):
                return [
                    "the target also numbers this key itself: in Postgres set its sequence past the largest, in after:"
                ]
        return []

    def _column(self, name: str) -> Column:
        column = self._target.column(name)
        assert column is not None, f"{self._target.dataset} lists {name} but does not have it"
        return column

    def _look(self, match: Match) -> Seen:
        return self._seen.get(match.column.name, Seen())


def _is_open(made: Mapped) -> bool:
    return isinstance(made.form, str) and made.form.startswith(f"{UNDECIDED}(")


def _unit(source: Schema, seen: Mapping[str, Seen]) -> tuple[tuple[str, ...], str | None]:
    """What identifies a source record: its key, a unique index over NOT NULL columns, else what looks like an id."""
    required = {column.name for column in source.columns if not column.nullable}
    for names in (source.key, *(unique for unique in source.unique if set(unique) <= required)):
        if names:
            return tuple(reference(name) for name in names), None
    for least in (1.0, _MOSTLY):
        for word in _IDS:
            for name, look in seen.items():
                own = word in (folded(name), folded(without(name, source.dataset))) or folded(name).endswith(word)
                if own and look.distinct and look.distinct >= least * look.records:
                    said = "is unique" if look.unique else f"has {look.distinct} different values"
                    return (
                        reference(name),
                    ), f"no key is declared; `{name}` {said} in the first {look.records} records"
    return (undecided("what identifies one record?"),), "no key is declared, and no column looks like one"


def _ordered(flows: Sequence[DraftedFlow]) -> tuple[DraftedFlow, ...]:
    """What is pointed at comes first; in a circle somebody has to be first, and is marked."""
    left = {flow.pair.target.dataset: flow for flow in flows}
    done: list[DraftedFlow] = []
    while left:
        waiting = {name: _points_at(flow) & left.keys() - {name} for name, flow in left.items()}
        free = [name for name, others in waiting.items() if not others]
        name = free[0] if free else next(iter(left))
        flow = left.pop(name)
        circle = f"points at {', '.join(sorted(waiting[name]))}, which later flows fill: in a circle none can be first"
        done.append(flow if free else replace(flow, order_doubt=circle))
    return tuple(done)


def _points_at(flow: DraftedFlow) -> set[str]:
    mapped = {made.column for made in flow.columns}
    keys: Sequence[ForeignKey] = flow.pair.target.foreign_keys
    return {key.target for key in keys if set(key.columns) <= mapped}
