"""One DuckDB with our functions for all tests that only ask it for values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import duckdb
import pytest

from resettle.mapping.functions import connect, query
from resettle.mapping.sql import parse_expression

Value = Callable[..., Any]


@pytest.fixture(scope="session")
def base() -> duckdb.DuckDBPyConnection:
    return connect()


@pytest.fixture
def value(base: duckdb.DuckDBPyConnection) -> Value:
    """What an expression of a migration gives; ``x`` is its one column."""

    def evaluate(expression: str, x: Any = None) -> Any:
        sql = parse_expression(expression).sql
        return query(base, f"SELECT {sql} AS y FROM (SELECT ?::VARCHAR AS x)", [x])["y"][0].as_py()

    return evaluate
