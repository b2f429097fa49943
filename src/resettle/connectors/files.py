"""Files in a folder as datasets: JSON, DynamoDB JSON, CSV and Parquet, plain or gzip.

A file directly in the folder is a dataset, named as the file without its extension. A folder below it is one
dataset, named by its path, of all files directly in it: its parts. Names that begin with `.` or `_` are
passed over, links to folders are not followed, and a file that a link puts outside is refused.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from resettle.batch import Batch, Column, Partition, Schema
from resettle.connectors._file_formats import FORMATS, Format
from resettle.connectors._lines import share
from resettle.errors import ConfigError

EXTENSIONS: Mapping[str, str] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
"""What a file is taken for by its extension, before a `.gz`; other files are passed over."""


class FilesSettings(BaseModel):
    """Settings of a connection of type `files`."""

    model_config = ConfigDict(extra="forbid")

    path: Path = Field(description="the folder")
    format: Literal["json", "dynamodb_json", "csv", "parquet"] | None = Field(
        default=None, description="what every file is, whatever its extension says"
    )


class Files:
    """Source over a folder. Nothing but the folder is read, and nothing is written."""

    def __init__(self, name: str, settings: FilesSettings) -> None:
        self.name = name
        self._settings = settings
        self._root = settings.path.resolve()
        self._formats: Mapping[str, Format] = {kind: made() for kind, made in FORMATS.items()}
        if not self._root.is_dir():
            raise ConfigError(f"{name}: there is no folder {settings.path}")

    def datasets(self) -> Sequence[str]:
        return sorted(self._found)

    def schema(self, dataset: str) -> Schema:
        """Columns of all parts. JSON has no catalogue: its columns are those of each part's first records."""
        form, columns = self._format(dataset), dict[str, Column]()
        for path in self._parts(dataset):
            for column in form.columns(path, self.name):
                columns.setdefault(column.name, column)
        return Schema(dataset, tuple(columns.values()), privileges=frozenset({"select"}), open=form.sampled)

    def count(self, dataset: str) -> int | None:
        """Exact for Parquet, unknown otherwise."""
        counts = [self._format(dataset).count(path) for path in self._parts(dataset)]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """Groups of whole files. Every file is read to its end first: gzip checksums, half records."""
        form, parts = self._format(dataset), self._parts(dataset)
        for path in parts:
            form.check(path, self.name)
        groups = share(parts, wanted, lambda path: path.stat().st_size)
        return [
            Partition(
                dataset,
                f"files {number} of {len(groups)}",
                {"files": [path.relative_to(self._root).as_posix() for path in group]},
            )
            for number, group in enumerate(groups, 1)
        ]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        form = self._format(partition.dataset)
        for path in self._parts(partition.dataset):
            if path.relative_to(self._root).as_posix() in partition.detail["files"]:
                for table in form.read(path, self.name, rows):
                    yield Batch(partition.dataset, table, form.decode)

    def close(self) -> None:
        """Nothing is held open."""

    def _parts(self, dataset: str) -> list[Path]:
        if dataset not in self._found:
            near = difflib.get_close_matches(dataset, self._found, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(self.datasets()[:10])}"
            raise ConfigError(f'{self.name}: there is no dataset "{dataset}"', hint=hint)
        return self._found[dataset]

    def _format(self, dataset: str) -> Format:
        kinds = {self._kind(path) for path in self._parts(dataset)}
        if len(kinds) > 1:
            found = " and ".join(sorted(filter(None, kinds)))
            raise ConfigError(f'{self.name}: "{dataset}" has parts of different formats: {found}')
        return self._formats[str(kinds.pop())]

    def _kind(self, path: Path) -> str | None:
        return self._settings.format or EXTENSIONS.get(_extension(path))

    @functools.cached_property
    def _found(self) -> dict[str, list[Path]]:
        """Each dataset's files, by name."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self._root.rglob("*")):
            inside = path.relative_to(self._root)
            hidden = any(part.startswith((".", "_")) for part in inside.parts)
            if hidden or not path.is_file() or self._kind(path) is None:
                continue
            if not path.resolve().is_relative_to(self._root):
                raise ConfigError(f"{self.name}: {inside} is a link to a file outside the folder")
            alone = inside.parent == Path()
            name = _stem(inside) if alone else inside.parent.as_posix()
            if name in found and (alone or found[name][0].parent != path.parent):
                raise ConfigError(f'{self.name}: several files or folders are called "{name}"')
            found.setdefault(name, []).append(path)
        return found


def _extension(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem
