"""Connections: from a migration's settings to opened connectors and the ledger. The only assembler."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel, ValidationError

from resettle import private
from resettle.connector import Source, Sql, Target
from resettle.errors import ConfigError, MappingError
from resettle.ledger.ledger import Ledger
from resettle.mapping.load import Migration, suggest
from resettle.mapping.model import MigrationFile

CONNECTORS: Mapping[str, tuple[str, str, str]] = {
    "memory": ("resettle.connectors.memory", "Memory", "MemorySettings"),
    "sqlite": ("resettle.connectors.sqlite", "SQLite", "SQLiteSettings"),
    "d1": ("resettle.connectors.d1", "D1", "D1Settings"),
    "postgres": ("resettle.connectors.postgres", "Postgres", "PostgresSettings"),
    "dynamodb": ("resettle.connectors.dynamodb", "DynamoDB", "DynamoDBSettings"),
    "files": ("resettle.connectors.files", "Files", "FilesSettings"),
    "s3": ("resettle.connectors.s3", "S3", "S3Settings"),
    "appsync": ("resettle.connectors.appsync", "AppSync", "AppSyncSettings"),
    "google_drive": ("resettle.connectors.google_drive", "GoogleDrive", "GoogleDriveSettings"),
}
"""Type in a migration -> module, class, settings. Packages add theirs by the entry point `resettle.connectors`,
whose value is the connector's class in a module that also holds `<class name>Settings`."""

PATHS = ("path", "export")
"""Settings that name a file or folder: relative to the migration, unless they are a URL; so is all that is a Path."""


class Connections:
    """Opens each connection once, when it is first asked for. Use as a context manager."""

    def __init__(self, migration: Migration, *, opened: Mapping[str, Any] | None = None) -> None:
        self.migration = migration
        self._sources: dict[str, Source] = {}
        self._targets: dict[str, Target] = {}
        self._given = dict(opened or {})
        self._ledger_store: Any = None

    def __enter__(self) -> Connections:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for connector in [*self._sources.values(), *self._targets.values()]:
            connector.close()
        if self._ledger_store is not None:
            self._ledger_store.close()

    def source(self, name: str) -> Source:
        """The connection for reading, read-only wherever its technology can enforce it."""
        if name in self._given:
            given: Source = self._given[name]
            return given
        if name not in self._sources:
            self._sources[name] = self._open(name, readonly=True)
        return self._sources[name]

    def target(self, name: str) -> Target:
        """The connection for writing. Raises ConfigError if it can only be read."""
        connector = self._given.get(name) or self._targets.get(name) or self._open(name, readonly=False)
        if not isinstance(connector, Target):
            raise ConfigError(f"connection `{name}` can only be read, it cannot be a target")
        self._targets.setdefault(name, connector)
        return connector

    def ledger(self) -> Ledger:
        """The ledger: in the named connection, else in the first target that can hold one, else in a file."""
        place = self.migration.file.ledger
        store = self._store(place.connection)
        if place.schema_ != "resettle" and not place.schema_.replace("_", "").isalnum():
            raise MappingError(self.migration.place("ledger", "schema"), "expected letters, digits and underscores")
        return Ledger(
            store,
            self.migration.name,
            self.migration.environment,
            schema=place.schema_,
            version=version("resettle"),
        )

    def _store(self, name: str | None) -> Sql:
        for one in [name] if name else self.migration.file.targets:
            if (sql := self.target(one).sql()) is not None:
                return sql
        if name:
            raise MappingError(
                self.migration.place("ledger", "connection"), f"connection `{name}` cannot hold a ledger"
            )
        return self._own_file()

    def _own_file(self) -> Sql:
        from resettle.connectors.sqlite import SQLite, SQLiteSettings

        if self._ledger_store is None:
            path = private.folder(self.migration.root / ".resettle") / "ledger.sqlite"
            self._ledger_store = SQLite("ledger", SQLiteSettings(path=path, create=True))
        store: Sql | None = self._ledger_store.sql()
        assert store is not None
        return store

    def _open(self, name: str, *, readonly: bool) -> Any:
        settings = dict(self.migration.connections[name])
        kind = settings.pop("type", None)
        at = ("connections", name)
        if not isinstance(kind, str):
            raise MappingError(self.migration.place(*at), f"connection `{name}` has no `type:`", hint=self._types())
        connector, model = _connector(kind, self.migration, name)
        typed = [name for name, field in model.model_fields.items() if field.annotation in (Path, Path | None)]
        for key in {*PATHS, *typed}:
            if isinstance(settings.get(key), str) and "://" not in settings[key]:
                settings[key] = str(_below(self.migration.root, settings[key]))
        if readonly and "readonly" in model.model_fields:
            settings["readonly"] = True
        try:
            made = model.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0]) if first["loc"] else "type"
            unknown = first["type"] == "extra_forbidden"
            names = [field.alias or field_name for field_name, field in model.model_fields.items()]
            raise MappingError(
                self.migration.place(*at, key),
                f"connection `{name}`: " + (f"unknown key `{key}`" if unknown else f"`{key}`: {first['msg']}"),
                hint=suggest(key, names) if unknown else None,
            ) from None
        return connector(name, made)

    @staticmethod
    def _types() -> str:
        return f"types: {', '.join(sorted(CONNECTORS))}"


def _below(root: Path, text: str) -> Path:
    """A path as the migration means it. Whether a link in its last place may be followed, its connector knows."""
    path = root / Path(text).expanduser()
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def settings_of(kind: str, name: str) -> type[BaseModel]:
    """What a connection of this type can be told. Raises ConfigError, with a suggestion, if there is no such type."""
    with _placeless():
        return _connector(kind, _undeclared({}, Path()), name)[1]


@contextmanager
def looking(sides: Mapping[str, Mapping[str, Any]], root: Path) -> Iterator[dict[str, Source]]:
    """Connections that no migration declares yet, open for reading only; paths count from ``root``."""
    with Connections(_undeclared(sides, root)) as connections:
        with _placeless():
            opened = {name: connections.source(name) for name in sides}
        yield opened


def _undeclared(sides: Mapping[str, Mapping[str, Any]], root: Path) -> Migration:
    flow = {"from": "nowhere.none", "unit": "none", "into": "nowhere.none"}
    declared = {"migration": "undeclared", "connections": sides, "flows": {"none": flow}}
    return Migration(root, MigrationFile.model_validate(declared), "local", False, sides, None)


@contextmanager
def _placeless() -> Iterator[None]:
    """Settings that stand in no file have no place in one."""
    try:
        yield
    except MappingError as error:
        raise ConfigError(error.message.removeprefix(f"{error.place}: "), hint=error.hint) from None


def _connector(kind: str, migration: Migration, name: str) -> tuple[Any, type[BaseModel]]:
    """The class and settings of a connector type."""
    if kind in CONNECTORS:
        module_name, class_name, settings_name = CONNECTORS[kind]
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"connection `{name}`: the module `{error.name}` is not installed",
                hint=f"pip install 'resettle[{kind}]'",
            ) from None
        return getattr(module, class_name), getattr(module, settings_name)
    for entry in entry_points(group="resettle.connectors"):
        if entry.name == kind:
            made = entry.load()
            return made, getattr(importlib.import_module(made.__module__), f"{made.__name__}Settings")
    raise MappingError(
        migration.place("connections", name, "type"),
        f"unknown connector type `{kind}`",
        hint=suggest(kind, CONNECTORS),
    )
