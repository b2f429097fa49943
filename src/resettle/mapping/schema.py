"""The JSON Schema of migration.yaml, for editors and for `resettle schema`."""

from __future__ import annotations

from typing import Any

from resettle.mapping.model import MigrationFile


def json_schema() -> dict[str, Any]:
    """Draft 2020-12, as pydantic writes it."""
    schema = MigrationFile.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "resettle migration",
        **schema,
    }
