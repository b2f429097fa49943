"""What a migration.yaml may say. Unknown keys are errors; `resettle schema` prints this as JSON Schema."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Expression = Annotated[str, Field(description="An SQL expression (DuckDB's dialect) over the source row.")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]


class Part(BaseModel):
    """A frozen piece of the declaration that knows no extra keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Value(Part):
    """A constant."""

    value: str | int | float | bool | None


class Lookup(Part):
    """A value translated through a table that people or the target own; held where it is missing."""

    lookup: str
    on: Expression
    else_: Expression | None = Field(None, alias="else", description="The value where ``on`` is null.")


class Ref(Part):
    """The target key of something this migration made or reused: that flow's unit key goes in ``on``."""

    ref: str
    on: Expression


class Mint(Part):
    """A value made once and remembered."""

    mint: Literal["uuid"]


class Moment(Part):
    """A value for the moment a row is created or updated: not compared afterwards, and not ours."""

    create: Expression | None = None
    update: Expression | None = Field(
        None, description="Over the columns that the output writes and `target`, the row as it is."
    )

    @model_validator(mode="after")
    def _some_moment(self) -> Moment:
        if self.create is None and self.update is None:
            raise ValueError("say `create:`, `update:` or both")
        return self


class Edit(Part):
    """One place in a JSON document of a row that exists (`patch:` only); every other byte of it stays."""

    at: Expression = Field(description="A JSON pointer (RFC 6901); nothing to do where null.")
    set_: Expression = Field(alias="set", description="The value to put there; nothing to do where null.")
    expect: Expression | None = Field(
        None, description="The JSON that stood at the pointer's parent when the source was read."
    )


class Bytes(Part):
    """Where a file's bytes come from, when not from the flow's own source."""

    from_: str = Field(alias="from", description="connection.dataset, a listing of files")
    at: Expression = Field(description="The file's key there.")


ColumnForm = Expression | Value | Lookup | Ref | Mint | Moment | Edit
Names = str | list[str]


def constant_of(form: ColumnForm) -> str | int | float | bool | None:
    """What the column is always made with: `{value: x}`, or an expression that is a text; None for any other."""
    form = form.create or "" if isinstance(form, Moment) else form
    if isinstance(form, Value):
        return form.value
    plain = re.fullmatch(r"\s*'((?:[^']|'')*)'\s*", form) if isinstance(form, str) else None
    return plain[1].replace("''", "'") if plain else None


def split(names: Names | None) -> tuple[str, ...]:
    """Column names, given as a list or as one text with commas."""
    parts = names.split(",") if isinstance(names, str) else names or ()
    return tuple(name.strip() for name in parts)


class Output(Part):
    """One target dataset that a flow writes."""

    into: str = Field(description="connection.dataset")
    key: Names | None = Field(
        None, description="Columns that identify a target row; by default the target's primary key."
    )
    match: Names | None = Field(
        None, description="Natural key: reuse the row that has it and never overwrite it; else create one."
    )
    patch: Names | None = Field(
        None, description="Columns that identify a row that exists: only the other columns of it are changed."
    )
    body: Expression | Bytes | None = Field(
        None, description="The file whose bytes are copied: its key in the flow's source, or in another listing."
    )
    when: Expression | None = Field(None, description="The output gets only the rows where it is true.")
    prefer: dict[str, Expression] | None = Field(
        None, description="With match: of several rows with that natural key, the one with this key counts."
    )
    hold_reuse: dict[Name, Expression] = Field(
        default_factory=dict, description="With match: needs a person where true of the row to reuse."
    )
    rows: str | None = Field(
        None, description="SELECT over `source` (or a .sql file) giving this output's rows; must keep _unit."
    )
    columns: dict[str, ColumnForm] | Literal["auto"] = "auto"
    on_duplicate_key: dict[str, Expression] | None = Field(
        None, description="Key columns to use instead where another unit already has this key."
    )
    count: dict[Name, Expression] = Field(
        default_factory=dict, description="Counted over the rows that this output creates, where true."
    )

    @model_validator(mode="after")
    def _one_mode(self) -> Output:
        if sum(names is not None for names in (self.key, self.match, self.patch)) > 1:
            raise ValueError("an output has one of `key:`, `match:` and `patch:`")
        if self.match is None and (self.prefer or self.hold_reuse):
            raise ValueError("`prefer:` and `hold_reuse:` go with `match:`")
        if self.patch is not None and (self.columns == "auto" or self.on_duplicate_key):
            raise ValueError("an output with `patch:` names its columns, and has no `on_duplicate_key:`")
        if self.body is not None and (self.patch or self.match or self.columns == "auto" or self.on_duplicate_key):
            raise ValueError("an output with `body:` has a `key:` and names its columns")
        return self


class Flow(Part):
    """One source dataset and all that its records become."""

    from_: str = Field(alias="from", description="connection.dataset")
    unit: Expression | list[Expression] = Field(description="What identifies one source record.")
    rows: str | None = Field(None, description="SELECT over `source` (or a .sql file); must keep _unit.")
    skip: dict[Name, Expression] = Field(default_factory=dict, description="Out of scope where true.")
    hold: dict[Name, Expression] = Field(default_factory=dict, description="Needs a person where true.")
    warn: dict[Name, Expression] = Field(default_factory=dict, description="Migrated, counted and listed.")
    skip_rows: dict[Name, Expression] = Field(
        default_factory=dict, description="Rows of the `rows:` query that are left out and counted, where true."
    )
    partial_rows: dict[Name, Expression] = Field(
        default_factory=dict,
        description="Rows of the `rows:` query that must wait, where true: the rest of the unit goes on, as partial.",
    )
    warn_rows: dict[Name, Expression] = Field(
        default_factory=dict, description="Rows of the `rows:` query, left out or not, that their record is listed for."
    )
    into: str | None = None
    key: Names | None = None
    match: Names | None = None
    columns: dict[str, ColumnForm] | Literal["auto"] | None = None
    on_duplicate_key: dict[str, Expression] | None = None
    outputs: dict[Name, Output] = Field(default_factory=dict)
    on_conflict: Literal["hold", "source", "target"] = "hold"
    after: list[str] = Field(default_factory=list, description="SQL run in the target once the flow is done.")
    label: Expression | None = Field(
        None, description="A name for people of a record, in lists of records, where values are asked for."
    )
    row_key: Expression | None = Field(
        None, description="What tells the rows of one record apart, where they wait; a key, so it is never hidden."
    )
    summary: dict[Name, Expression] = Field(
        default_factory=dict, description="The report's own figures, as SQL over the flow's counts."
    )

    @model_validator(mode="before")
    @classmethod
    def _outputs_or_into(cls, data: Any) -> Any:
        if isinstance(data, dict) and ("into" in data) == ("outputs" in data):
            raise ValueError("a flow has either `into:` with `columns:` or `outputs:`")
        return data

    @property
    def all_outputs(self) -> dict[str, Output]:
        """The outputs in order; the `into:` shorthand is one output named `row`."""
        if self.into is None:
            return self.outputs
        own = {name: getattr(self, name) for name in ("into", "key", "match", "on_duplicate_key")}
        return {"row": Output(**own, columns=self.columns or "auto")}


class LookupTable(Part):
    """Where a lookup's rows come from: a CSV file of the migration, or any dataset of a connection.

    In expressions it is also a function, ``lookup_NAME(x)``: the value as text, null where it has none.
    """

    file: str | None = None
    from_: str | None = Field(None, alias="from", description="connection.dataset")
    key: Expression
    value: Expression
    pick: Literal["max", "min"] | None = Field(
        None, description="Which value counts where a key has several; by default that is an error."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> LookupTable:
        if (self.file is None) == (self.from_ is None):
            raise ValueError("a lookup has either `file:` or `from:`")
        return self


class Assertion(Part):
    """SQL run against a target; passes when its first value equals ``expect``."""

    on: str | None = Field(None, description="The connection; by default the only target.")
    sql: str
    expect: str | int | float | bool | None = 0


class Probe(Part):
    """A query as a database role: what that role sees through row-level security."""

    on: str | None = None
    role: str
    claims: dict[str, Any] = Field(default_factory=dict)
    sql: str
    expect: str | int | float | bool | None = Field(None, description="The first value, or `denied`.")
    same_as: str | None = Field(None, description="SQL as the connection's own user whose answer is expected.")


class Verify(Part):
    """Checks beyond the built-in ones."""

    spot_checks: int = Field(20, ge=0, description="Records shown field by field.")
    exclusive: list[str] = Field(
        default_factory=list,
        description="connection.dataset that nobody else writes to: a row of no record is a finding there.",
    )
    assertions: dict[Name, Assertion] = Field(default_factory=dict)
    probes: dict[Name, Probe] = Field(default_factory=dict)


class Environment(Part):
    """What differs in one environment."""

    connections: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    vars: dict[Name, str | int | float | bool | None] = Field(default_factory=dict)
    guard: bool = Field(False, description="Writing needs the environment's name typed or passed.")


class LedgerPlace(Part):
    """Where the ledger lives, when not in the target itself."""

    connection: str | None = None
    schema_: str = Field("resettle", alias="schema", description="Schema, or table prefix where there are none.")


class MigrationFile(Part):
    """A migration.yaml."""

    migration: Name
    description: str | None = None
    vars: dict[Name, str | int | float | bool | None] = Field(default_factory=dict)
    connections: dict[Name, dict[str, Any]]
    environments: dict[Name, Environment] = Field(default_factory=dict)
    ledger: LedgerPlace = Field(default_factory=lambda: LedgerPlace.model_validate({}))
    lookups: dict[Name, LookupTable] = Field(default_factory=dict)
    flows: dict[Name, Flow] = Field(min_length=1)
    after: list[str] = Field(default_factory=list)
    verify: Verify = Field(default_factory=lambda: Verify.model_validate({}))

    @property
    def targets(self) -> tuple[str, ...]:
        """The connections that outputs write to, in the declaration's order."""
        outputs = (output for flow in self.flows.values() for output in flow.all_outputs.values())
        return tuple(dict.fromkeys(output.into.partition(".")[0] for output in outputs))

    def makers(self, into: str) -> set[str]:
        """The flows that make rows in a dataset (connection.dataset)."""
        flows = self.flows.items()
        return {name for name, flow in flows for one in flow.all_outputs.values() if one.into == into and not one.patch}
