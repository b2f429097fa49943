"""What each connection's user is said to need is what the runs do over it."""

from __future__ import annotations

from collections.abc import Sequence

from resettle.batch import Column, Kind, Schema
from resettle.connector import Needs
from resettle.connectors.memory import Memory
from resettle.engine.flow import Options
from resettle.engine.privileges import privileges
from tests.engine.conftest import MakeProject

TEXT = Schema("people", (Column("id", Kind.TEXT, nullable=False),), key=("id",))
FLOWS = """
first:
  from: src.people
  unit: id
  into: one.people
  after: ["first's"]
both:
  from: src.people
  unit: id
  outputs: {a: {into: two.people, columns: {id: id}}, b: {into: one.people, columns: {id: "id || '!'"}}}
  after: ["both's"]
"""
EXTRA = """
environments: {local: {connections: {one: {type: memory}, two: {type: memory}}}}
after: ["the last flow's first"]
verify: {probes: {few: {role: reader, sql: SELECT 1, expect: 1}}}
"""


class Granted(Memory):
    """A connector that names what it was told is needed."""

    def privileges(self, needs: Needs, *, rollback: bool = False) -> Sequence[str]:
        return [*needs.after, *needs.roles]


def test_statements_and_probes_need_their_rights_where_they_are_run(project: MakeProject) -> None:
    p = project(FLOWS, extra=EXTRA, people=[{"id": "a"}])
    p.opened_before = {name: Granted(name).create("people", TEXT) for name in ("one", "two")}
    with p.opened() as (migration, connections, ledger):
        named = {one.connection: one.apply for one in privileges(migration, connections, Options(), ledger)}
        assert named["one"] == ("first's", "both's", "reader")
        assert named["two"] == ("both's", "the last flow's first")
        (_, only) = privileges(migration, connections, Options(select=("first",)), ledger)
        assert only.apply == ("first's", "the last flow's first", "reader")
