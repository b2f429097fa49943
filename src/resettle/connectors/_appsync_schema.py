"""What an API offers, read by introspection: its model types, their columns, and the fields that list and write them.

Nothing is guessed from a plural or a prefix alone: a list is a query that gives a type's connection, an index query
one that needs a column's value first, a create one that takes the type's input and gives the type back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resettle.batch import Column, ForeignKey, Kind, Schema
from resettle.connector import Needs

_TYPE = "kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name}}}}"
INTROSPECTION = (
    "query{__schema{queryType{name} mutationType{name} types{kind name"
    f" fields{{name args{{name type{{{_TYPE}}}}} type{{{_TYPE}}}}}"
    f" inputFields{{name type{{{_TYPE}}}}} enumValues{{name}}}}}}}}"
)
KINDS: Mapping[str, Kind] = {
    "ID": Kind.TEXT,
    "String": Kind.TEXT,
    "Int": Kind.INT32,
    "Float": Kind.FLOAT64,
    "Boolean": Kind.BOOLEAN,
    "AWSDateTime": Kind.INSTANT,
    "AWSTimestamp": Kind.INSTANT,
    "AWSDate": Kind.DATE,
    "AWSTime": Kind.TIME,
    "AWSJSON": Kind.JSON,
}
"""By scalar; any other one (AWSURL, AWSEmail, AWSPhone, AWSIPAddress, custom) is text that the service checks."""
PAGING = frozenset({"filter", "limit", "nextToken", "sortDirection"})
STAMP = "updatedAt"
"""The column that Amplify sets anew with every change."""


@dataclass(frozen=True)
class Type:
    """A field's type: its named type, whether it must have a value, whether it is a list, and how GraphQL writes it."""

    name: str
    kind: str
    required: bool
    listed: bool
    text: str


@dataclass(frozen=True)
class Listing:
    """A query that gives a type's rows in pages; ``by`` is the column whose value it needs, and that value's type."""

    field: str
    limited: bool
    by: str = ""
    type: str = ""


@dataclass(frozen=True)
class Writing:
    """A mutation: its field, the type of its `input`, and the columns that one takes.

    ``condition`` is the type of its argument of that name, if that can ask for `updatedAt`.
    """

    field: str
    input: str
    columns: Mapping[str, Type]
    condition: str = ""


@dataclass(frozen=True)
class Model:
    """A dataset: a type that can be listed or got. ``select`` is what a query writes to get each column."""

    schema: Schema
    select: Mapping[str, str]
    scalars: Mapping[str, str]
    """The named type of each column that is one value, not a list or an object."""
    get: str | None = None
    key_types: Mapping[str, str] | None = None
    listing: Listing | None = None
    indexes: tuple[Listing, ...] = ()
    writes: Mapping[str, Writing] | None = None
    """By create, update and delete, where they exist."""

    @property
    def name(self) -> str:
        return self.schema.dataset

    def writing(self, verb: str) -> Writing | None:
        return (self.writes or {}).get(verb)


def operations(known: Mapping[str, Model], needs: Needs, *, rollback: bool) -> list[str]:
    """The queries and mutations that a key, a user's group or a role has to be allowed."""
    verbs = {"delete": rollback, "create": not rollback, "update": not rollback}
    asked = ["Query.__schema", "Query.__type"] if not rollback else []
    for use in needs.uses:
        model = known[use.dataset]
        lists = [*model.indexes, *([model.listing] if model.listing else [])]
        asked += [f"Query.{name}" for name in (model.get, *(one.field for one in lists)) if name and not rollback]
        wanted = {"create": use.created, "update": use.updated, "delete": use.created}
        writes = (model.writing(verb) for verb, now in verbs.items() if now and wanted[verb])
        asked += [f"Mutation.{writing.field}" for writing in writes if writing]
    return asked


def models(answer: Mapping[str, Any], *, readonly: bool) -> dict[str, Model]:
    """Every model of an introspection's answer, by name."""
    api = _Api(answer["__schema"])
    names = sorted(name for name in api.types if api.is_model(name))
    return {name: api.model(name, names, readonly=readonly) for name in names}


class _Api:
    """One answer, by name of its types."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.types: dict[str, Mapping[str, Any]] = {one["name"]: one for one in schema["types"]}
        roots = [(schema.get(root) or {}).get("name") for root in ("queryType", "mutationType")]
        self._queries, self._mutations = (self._fields(root) if root else {} for root in roots)
        self._roots = {*roots, "Subscription"}
        self._connections = {
            name: item for name in self.types if (item := self._item(name)) and name not in self._roots
        }
        self._lists: dict[str, list[Mapping[str, Any]]] = {}
        for field in self._queries.values():
            item = self._connections.get(_type(field["type"]).name)
            if item:
                self._lists.setdefault(item, []).append(field)

    def is_model(self, name: str) -> bool:
        return name not in self._roots and (name in self._lists or bool(self._got(name)))

    def model(self, name: str, known: Sequence[str], *, readonly: bool) -> Model:
        types = {field: _type(one["type"]) for field, one in self._fields(name).items()}
        select = {field: text for field, type_ in types.items() if (text := self._select(field, type_, known, (name,)))}
        got = self._got(name)
        key_types = {arg["name"]: _type(arg["type"]).text for arg in got["args"]} if got else {}
        key = tuple(one for one in key_types if one in select) or (("id",) if "id" in select else ())
        writes = {} if readonly else self._writes(name)
        listing, indexes = self._listings(name, select, key)
        columns = tuple(self._column(field, types[field], writes) for field in select)
        links = tuple(self._links(name, types, select, known))
        may = {"select"} | {word for verb, word in (("create", "insert"), ("update", "update")) if verb in writes}
        schema = Schema(name, columns, key, foreign_keys=links, privileges=frozenset(may))
        scalars = {field: types[field].name for field in select if select[field] == field and not types[field].listed}
        return Model(schema, select, scalars, got["name"] if got else None, key_types, listing, indexes, writes)

    def _fields(self, name: str) -> dict[str, Mapping[str, Any]]:
        return {field["name"]: field for field in self.types[name].get("fields") or ()}

    def _item(self, name: str) -> str | None:
        """What a connection holds pages of; None for other types."""
        fields = self._fields(name)
        if "items" not in fields or "nextToken" not in fields:
            return None
        items = _type(fields["items"]["type"])
        return items.name if items.listed and items.kind == "OBJECT" else None

    def _got(self, name: str) -> Mapping[str, Any] | None:
        """The query that gives one record by its key; of several the one that is called so."""
        columns = self._fields(name) if name in self.types else {}
        found = [
            field
            for field in self._queries.values()
            if (given := _type(field["type"])).name == name
            and not given.listed
            and any(_type(arg["type"]).required for arg in field["args"])
            and all(arg["name"] in columns for arg in field["args"])
        ]
        return min(found, key=lambda field: (field["name"] != f"get{name}", field["name"]), default=None)

    def _listings(
        self, name: str, select: Mapping[str, str], key: tuple[str, ...]
    ) -> tuple[Listing | None, tuple[Listing, ...]]:
        plain: list[Listing] = []
        by: list[Listing] = []
        for field in self._lists.get(name, ()):
            args = {arg["name"]: _type(arg["type"]) for arg in field["args"]}
            if "nextToken" not in args or "lastSync" in args:
                continue
            needed = [arg for arg, type_ in args.items() if type_.required]
            hashes = [arg for arg, type_ in args.items() if arg not in PAGING and type_.kind in ("SCALAR", "ENUM")]
            hashed = next((arg for arg in needed or hashes if arg in select), None)
            if not needed and (hashed is None or hashed in key):
                plain.append(Listing(field["name"], "limit" in args))
            elif hashed and set(needed) <= {hashed}:
                by.append(Listing(field["name"], "limit" in args, hashed, args[hashed].text))
        listing = min(plain, key=lambda one: (not one.field.startswith("list"), len(one.field)), default=None)
        return listing, tuple(sorted(by, key=lambda one: one.field))

    def _writes(self, name: str) -> dict[str, Writing]:
        found: dict[str, Writing] = {}
        for verb in ("create", "update", "delete"):
            for field in self._mutations.values():
                args = {arg["name"]: _type(arg["type"]) for arg in field["args"]}
                fits = _type(field["type"]).name == name and field["name"].startswith(verb) and "input" in args
                if (
                    fits
                    and args["input"].kind == "INPUT_OBJECT"
                    and (verb not in found or field["name"] == verb + name)
                ):
                    condition = args["condition"].name if "condition" in args else ""
                    guard = condition if STAMP in self._inputs(condition) else ""
                    taken = args["input"].name
                    found[verb] = Writing(field["name"], taken, self._inputs(taken), guard)
        return found

    def _inputs(self, name: str) -> dict[str, Type]:
        inputs = self.types.get(name, {}).get("inputFields") or ()
        return {one["name"]: _type(one["type"]) for one in inputs}

    def _select(self, field: str, type_: Type, known: Iterable[str], above: tuple[str, ...]) -> str:
        """What a query writes for a column, with everything inside an object that is no model; "" for relations."""
        if type_.kind in ("SCALAR", "ENUM"):
            return field
        inner = type_.name
        if type_.kind != "OBJECT" or inner in known or inner in self._connections or inner in above:
            return ""
        parts = [
            self._select(name, _type(one["type"]), known, (*above, inner))
            for name, one in self._fields(inner).items()
            if not any(_type(arg["type"]).required for arg in one["args"])
        ]
        return f"{field}{{{' '.join(part for part in parts if part)}}}" if any(parts) else ""

    def _column(self, name: str, type_: Type, writes: Mapping[str, Writing]) -> Column:
        taken = writes["create"].columns.get(name) if "create" in writes else None
        choices = None
        kind = KINDS.get(type_.name, Kind.TEXT)
        if type_.listed or type_.kind == "OBJECT":
            kind = Kind.JSON
        elif type_.kind == "ENUM":
            choices = tuple(one["name"] for one in self.types[type_.name].get("enumValues") or ())
        made = "create" in writes and taken is None
        filled = type_.required and not (taken and taken.required)
        nullable = not (type_.required or (taken is not None and taken.required))
        return Column(name, kind, type_.text, nullable, has_default=filled, generated=made, choices=choices)

    def _links(
        self, name: str, types: Mapping[str, Type], select: Mapping[str, str], known: Sequence[str]
    ) -> Iterator[ForeignKey]:
        """Relations that show both an object and the column that names it: `site: Site` beside `siteId` or `siteID`."""
        for field, type_ in types.items():
            if type_.listed or type_.name not in known:
                continue
            their = type_.name[:1].lower() + type_.name[1:]
            wanted = [f"{start}{end}" for start in (field, their) for end in ("Id", "ID")]
            column = next((one for one in wanted if one in select), None)
            if column and "id" in self._fields(type_.name):
                yield ForeignKey(f"{name}_{column}_fkey", (column,), type_.name, ("id",))


def _type(given: Mapping[str, Any]) -> Type:
    """A type as introspection nests it."""
    required, listed = given["kind"] == "NON_NULL", False
    text = _written(given)
    inner: Mapping[str, Any] = given
    while inner.get("ofType"):
        listed = listed or inner["kind"] == "LIST"
        inner = inner["ofType"]
    return Type(inner["name"], inner["kind"], required, listed, text)


def _written(given: Mapping[str, Any]) -> str:
    if given["kind"] == "NON_NULL":
        return f"{_written(given['ofType'])}!"
    return f"[{_written(given['ofType'])}]" if given["kind"] == "LIST" else str(given["name"])
