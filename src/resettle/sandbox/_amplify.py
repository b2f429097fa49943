"""The API that Amplify makes of a schema's models: its queries, mutations and inputs, and what introspection says."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from resettle.sandbox._graphql import Declared, Definition, Type, read_schema

SCALARS = (
    "ID", "String", "Int", "Float", "Boolean", "AWSDate", "AWSTime", "AWSDateTime", "AWSTimestamp", "AWSEmail",
    "AWSJSON", "AWSURL", "AWSPhone", "AWSIPAddress",
)  # fmt: skip
ALIKE = {"media", "people", "species", "series", "sheep", "data", "metadata"}
"""Words whose plural is the word, for the names of lists."""
PAGED = {"filter": "Model{}FilterInput", "limit": "Int", "nextToken": "String"}
ID, STRING, INT, MOMENT = Type("ID", True), Type("String"), Type("Int"), Type("AWSDateTime", True)


@dataclass(frozen=True)
class Index:
    """A query by a column that is no key."""

    field: str
    model: str
    column: str


@dataclass(frozen=True)
class Relation:
    """A field that gives other records: those whose ``theirs`` is this one's ``ours``."""

    model: str
    ours: str
    theirs: str
    many: bool


@dataclass(frozen=True)
class Resolver:
    """What a field of Query or Mutation does: verb is get, list, index, create, update or delete."""

    verb: str
    model: str
    index: Index | None = None


@dataclass(frozen=True)
class Api:
    """A schema as it is served."""

    types: Mapping[str, Definition]
    resolvers: Mapping[str, Resolver]
    relations: Mapping[tuple[str, str], Relation]
    models: Mapping[str, Definition]


def api_of(text: str) -> Api:
    """What Amplify makes of ``text``: models are types with @model; @index, @hasMany, @belongsTo and @auth count."""
    given = read_schema(text)
    types = {name: Definition("scalar", name) for name in SCALARS} | dict(given)
    models = {name: one for name, one in given.items() if "model" in one.marks}
    relations: dict[tuple[str, str], Relation] = {}
    for name, one in models.items():
        for field in one.fields.values():
            if field.type.base in models:
                relations[name, field.name] = _relation(name, field)
        types[name] = models[name] = _whole(one)
    queries: dict[str, Declared] = {}
    mutations: dict[str, Declared] = {}
    resolvers: dict[str, Resolver] = {}
    types["ModelSortDirection"] = Definition("enum", "ModelSortDirection", values=("ASC", "DESC"))
    for name, model in models.items():
        _read_side(model, models, types, queries, resolvers)
        _write_side(name, model, types, mutations, resolvers, relations)
    for name, fields in (("Query", queries), ("Mutation", mutations)):
        types[name] = Definition("type", name, fields)
    return Api(types, resolvers, relations, models)


def _whole(model: Definition) -> Definition:
    """With the fields that Amplify adds; relations to many are connections."""
    fields = {"id": Declared("id", ID)} | dict(model.fields)
    for name, one in model.fields.items():
        if "hasMany" in one.marks:
            fields[name] = Declared(name, Type(f"Model{one.type.base}Connection"), _paged(one.type.base), one.marks)
    stamps = {name: Declared(name, MOMENT) for name in ("createdAt", "updatedAt") if name not in fields}
    return Definition("type", model.name, fields | stamps, (), model.marks)


def _relation(name: str, field: Declared) -> Relation:
    many = "hasMany" in field.marks
    mark = field.marks.get("hasMany" if many else "belongsTo", {})
    column = (mark.get("references") or [f"{field.name}Id"])[0]
    return Relation(field.type.base, "id", column, True) if many else Relation(field.type.base, column, "id", False)


def _paged(model: str) -> dict[str, Type]:
    return {name: Type(kind.format(model)) for name, kind in PAGED.items()}


def plural(name: str) -> str:
    lower = name.lower()
    if any(lower.endswith(word) for word in ALIKE):
        return name
    if re.search("[^aeiou]y$", lower):
        return f"{name[:-1]}ies"
    return f"{name}es" if re.search("(s|x|ch|sh)$", lower) else f"{name}s"


def _read_side(
    model: Definition,
    models: Mapping[str, Definition],
    types: dict[str, Definition],
    queries: dict[str, Declared],
    resolvers: dict[str, Resolver],
) -> None:
    name = model.name
    connection = f"Model{name}Connection"
    items = Declared("items", Type("", True, Type(name)))
    types[connection] = Definition("type", connection, {"items": items, "nextToken": Declared("nextToken", STRING)})
    any_of = {field.name: Declared(field.name, Type("AWSJSON")) for field in model.fields.values()}
    types[f"Model{name}FilterInput"] = Definition("input", f"Model{name}FilterInput", any_of)
    names = model.marks["model"].get("queries") or {}
    getter, lister = (
        names.get("get", f"get{name}"),
        names.get("list", f"list{plural(name)[:1].upper()}{plural(name)[1:]}"),
    )
    queries[getter] = Declared(getter, Type(name), {"id": ID})
    resolvers[getter] = Resolver("get", name)
    if "list" not in names or names["list"] is not None:
        queries[lister] = Declared(lister, Type(connection), _paged(name))
        resolvers[lister] = Resolver("list", name)
    for field in model.fields.values():
        asked = field.marks.get("index", {}).get("queryField")
        if asked:
            sort = {"sortDirection": Type("ModelSortDirection")}
            args = {field.name: Type(field.type.name, True), **sort, **_paged(name)}
            queries[asked] = Declared(asked, Type(connection), args)
            resolvers[asked] = Resolver("index", name, Index(asked, name, field.name))


def _write_side(
    name: str,
    model: Definition,
    types: dict[str, Definition],
    mutations: dict[str, Declared],
    resolvers: dict[str, Resolver],
    relations: Mapping[tuple[str, str], Relation],
) -> None:
    own = {one.name: one for one in model.fields.values() if (name, one.name) not in relations}
    own = {key: one for key, one in own.items() if key not in ("createdAt", "updatedAt")}
    for verb in ("create", "update", "delete"):
        fields: dict[str, Declared] = {}
        for field in own.values():
            required = field.name == "id" if verb != "create" else field.type.required and field.name != "id"
            if verb != "delete" or field.name == "id":
                kind = Type(_input_of(field.type.base, types), required)
                inner = Type("", required, Type(kind.name)) if field.type.inner else kind
                fields[field.name] = Declared(field.name, inner)
        taken, field_name = f"{verb.capitalize()}{name}Input", f"{verb}{name}"
        types[taken] = Definition("input", taken, fields)
        args = {"input": Type(taken, True), "condition": Type(f"Model{name}FilterInput")}
        mutations[field_name] = Declared(field_name, Type(name), args)
        resolvers[field_name] = Resolver(verb, name)


def _input_of(name: str, types: dict[str, Definition]) -> str:
    """The input type of an object that is no model."""
    given = types[name]
    if given.kind != "type":
        return name
    made = f"{name}Input"
    if made not in types:
        types[made] = Definition("input", made)  # before its fields, which may lead back here
        fields = {}
        for field in given.fields.values():
            inner = Type(_input_of(field.type.base, types), field.type.required and not field.type.inner)
            fields[field.name] = Declared(
                field.name, Type("", field.type.required, inner) if field.type.inner else inner
            )
        types[made] = Definition("input", made, fields)
    return made


# -- introspection ---------------------------------------------------------------------------------

KINDS = {"type": "OBJECT", "input": "INPUT_OBJECT", "enum": "ENUM", "scalar": "SCALAR"}


def introspected(api: Api) -> dict[str, Any]:
    """`__schema`, whole: a request takes what it selects."""
    return {
        "queryType": {"name": "Query"},
        "mutationType": {"name": "Mutation"},
        "subscriptionType": None,
        "types": [_described(one, api) for one in api.types.values()],
        "directives": [],
    }


def _described(one: Definition, api: Api) -> dict[str, Any]:
    fields = [
        {
            "name": field.name,
            "args": [
                {"name": name, "type": _nested(kind, api), "defaultValue": None} for name, kind in field.args.items()
            ],
            "type": _nested(field.type, api),
        }
        for field in one.fields.values()
    ]
    return {
        "kind": KINDS[one.kind],
        "name": one.name,
        "fields": fields if one.kind == "type" else None,
        "inputFields": fields if one.kind == "input" else None,
        "enumValues": [{"name": value} for value in one.values] if one.kind == "enum" else None,
    }


def _nested(kind: Type, api: Api) -> dict[str, Any]:
    if kind.required:
        return {"kind": "NON_NULL", "name": None, "ofType": _nested(Type(kind.name, False, kind.inner), api)}
    if kind.inner:
        return {"kind": "LIST", "name": None, "ofType": _nested(kind.inner, api)}
    return {"kind": KINDS[api.types[kind.name].kind], "name": kind.name, "ofType": None}


# -- values ----------------------------------------------------------------------------------------


def coerced(kind: Type, value: Any, types: Mapping[str, Definition]) -> Any:
    """A variable's value as AppSync takes it. Raises ValueError for what it refuses."""
    if value is None:
        if kind.required:
            raise ValueError("null")
        return None
    if kind.inner:
        return [coerced(kind.inner, one, types) for one in (value if isinstance(value, list) else [value])]
    given = types[kind.name]
    if given.kind == "scalar":
        return _scalar(kind.name, value)
    if given.kind == "enum":
        if value not in given.values:
            raise ValueError(kind.name)
        return value
    if kind.name.endswith("FilterInput"):
        return value
    if not isinstance(value, dict) or set(value) - set(given.fields):
        raise ValueError(kind.name)
    needed = {field.name for field in given.fields.values() if field.type.required}
    wanted = [field for field in given.fields.values() if field.name in value or field.name in needed]
    return {field.name: coerced(field.type, value.get(field.name), types) for field in wanted}


_OFFSET = r"(?:Z|[+-]\d\d:\d\d(?::\d\d)?)"
_CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?"


def _scalar(name: str, value: Any) -> Any:
    if name in ("Int", "AWSTimestamp"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        good = whole and (name != "Int" or -(2**31) <= value < 2**31)
    elif name == "Float":
        good = isinstance(value, int | float) and not isinstance(value, bool)
    elif name == "Boolean":
        good = isinstance(value, bool)
    else:
        good = isinstance(value, str)
    if not good or not _formed(name, value):
        raise ValueError(name)
    return value


def _formed(name: str, value: Any) -> bool:
    """Whether a text is what the scalar says."""
    if name == "AWSURL":
        return re.match(r"[A-Za-z][\w+.-]*:(//[^\s/]+[^\s]*|[^\s/]\S*)$", value) is not None
    if name == "AWSEmail":
        return re.fullmatch(r"[^@\s]+@[^@\s]+", value) is not None
    if name == "AWSPhone":
        return re.fullmatch(r"\+?[\d -]{3,}", value) is not None
    if name == "AWSDateTime":
        found = re.fullmatch(rf"(\d{{4}}-\d\d-\d\d)T({_CLOCK}){_OFFSET}", value)
        return found is not None and datetime.fromisoformat(f"{found[1]}T{found[2][:8]}") is not None
    if name == "AWSDate":
        return (
            re.fullmatch(rf"\d{{4}}-\d\d-\d\d{_OFFSET}?", value) is not None
            and date.fromisoformat(value[:10]) is not None
        )
    if name == "AWSTime":
        return re.fullmatch(rf"{_CLOCK}{_OFFSET}?", value) is not None and time.fromisoformat(value[:5]) is not None
    if name == "AWSJSON":
        json.loads(value)
    if name == "AWSIPAddress":
        ipaddress.ip_interface(value)
    return True
