"""privileges: what each connection's user has to be allowed for a migration, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field

from resettle.connector import Granting, Needs, Use
from resettle.engine.flow import Connections, Options, compile_flow, selected
from resettle.engine.statements import OutputShape
from resettle.ledger.ledger import Ledger
from resettle.mapping.load import Migration


@dataclass(frozen=True)
class Privileges:
    """Of one connection: what an apply takes, and a rollback beyond it. None where its connector does not say."""

    connection: str
    apply: tuple[str, ...] | None
    rollback: tuple[str, ...] = ()


@dataclass
class _Uses:
    """The uses of one connection, by dataset; columns in the order in which they are met."""

    created: dict[str, dict[str, None]] = field(default_factory=dict)
    updated: dict[str, dict[str, None]] = field(default_factory=dict)

    def read(self, dataset: str) -> None:
        self.created.setdefault(dataset, {})
        self.updated.setdefault(dataset, {})

    def write(self, output: OutputShape) -> None:
        self.read(output.dataset)
        if not output.patch:
            self.created[output.dataset] |= dict.fromkeys(column.name for column in output.written)
        owned = [name for name in (*output.names, *output.updates, *output.edits) if name not in output.key_names]
        # A row that is looked at is locked, and that takes the right to update something of it.
        self.updated[output.dataset] |= dict.fromkeys(owned or output.key_names)

    def all(self) -> tuple[Use, ...]:
        return tuple(Use(name, tuple(self.created[name]), tuple(self.updated[name])) for name in self.created)


def privileges(migration: Migration, connections: Connections, options: Options, ledger: Ledger) -> list[Privileges]:
    """For each connection that the chosen flows use. Raises MappingError."""
    uses: dict[str, _Uses] = {}
    after: dict[str, list[str]] = {}  # by target
    shapes = [compile_flow(migration, name, connections).shape for name in selected(migration, options)]
    for shape in shapes:
        asked = [migration.file.lookups[one].from_ for one in shape.lookups]
        copied = [f"{output.body[0]}.{output.body[1]}" for output in shape.outputs if output.body]
        for place in filter(None, (shape.flow.from_, *asked, *copied)):
            connection, _, dataset = place.partition(".")
            uses.setdefault(connection, _Uses()).read(dataset)
        for output in shape.outputs:
            uses.setdefault(output.connection, _Uses()).write(output)
        for name in dict.fromkeys(output.connection for output in shape.outputs):
            after[name] = [*after.get(name, ()), *shape.flow.after]
    after[shapes[-1].outputs[0].connection] += migration.file.after
    return [_of(migration, connections, name, one, after.get(name), ledger) for name, one in uses.items()]


def _of(
    migration: Migration,
    connections: Connections,
    name: str,
    uses: _Uses,
    after: list[str] | None,
    ledger: Ledger,
) -> Privileges:
    """``after`` are the statements that are run there; None of what is only read."""
    connector = connections.source(name) if after is None else connections.target(name)
    if not isinstance(connector, Granting):
        return Privileges(name, None)
    probes = migration.file.verify.probes.values()
    roles = [probe.role for probe in probes if (probe.on or migration.file.targets[0]) == name]
    store = None if after is None else connections.target(name).sql()
    needs = Needs(
        uses.all(),
        ledger.schema if store is not None and ledger.lives_in(store) else None,
        tuple(dict.fromkeys(role for role in roles if role)),
        tuple(after or ()),
    )
    more = () if after is None else tuple(connector.privileges(needs, rollback=True))
    return Privileges(name, tuple(connector.privileges(needs)), more)
