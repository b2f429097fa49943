"""What every SQL store owes the ledger, see `resettle.connector.Sql`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

import pyarrow as pa
import pytest

from resettle.connector import Sql, Target
from resettle.errors import ResettleError

FP = bytes(range(16))
FINGERPRINT = {"sqlite": "BLOB", "postgres": "UUID"}
"""The type that a ledger gives its column of fingerprints."""
ROWS = pa.table(
    {
        "n": pa.array([1, -(2**63), None], pa.int64()),
        "unit": pa.array(["a", "", "it's %s 👍"], pa.string()),
        "fp": pa.array([FP, None, FP[::-1]], pa.binary(16)),
    }
)


@pytest.fixture
def table(store: Sql) -> str:
    with store.transaction():
        store.execute(f"CREATE TABLE memo (unit TEXT, n BIGINT, fp {FINGERPRINT[store.dialect]}, seen TEXT)")
    return "memo"


def everything(store: Sql) -> list[dict[str, object]]:
    found: list[dict[str, object]] = store.query("SELECT n, unit, fp FROM memo ORDER BY n").to_pylist()
    return sorted(found, key=str)


def are_int_text_binary(found: pa.Table) -> bool:
    n, text, fp = found.schema.types
    binary = pa.types.is_binary(fp) or fp == pa.binary(16)
    return bool(n == pa.int64() and text == pa.string() and binary)


def test_the_dialect_is_known(store: Sql) -> None:
    assert store.dialect in FINGERPRINT


def test_execute_takes_parameters_and_gives_rows(store: Sql, table: str) -> None:
    with store.transaction():
        assert store.execute("INSERT INTO memo (unit, n) VALUES (%s, %s)", ("it's 100 %s", 7)) == []
        assert store.execute("SELECT unit, n FROM memo WHERE unit = %s AND n = %s", ["it's 100 %s", 7]) == [
            ("it's 100 %s", 7)
        ]
        assert store.execute("UPDATE memo SET n = n + %s RETURNING n", (1,)) == [(8,)]
    assert store.execute("SELECT count(*) FROM memo") == [(1,)]


def test_a_doubled_percent_sign_is_one(store: Sql) -> None:
    assert store.execute("SELECT '50%%', 7 %% 4, %s", ("x%",)) == [("50%", 3, "x%")]
    assert store.execute("SELECT '50%%', 7 %% 4") == [("50%", 3)]
    assert store.query("SELECT '50%%' AS a, 7 %% 4 AS b").to_pylist() == [{"a": "50%", "b": 3}]


def test_execute_outside_a_transaction_commits(store: Sql, table: str) -> None:
    store.execute("INSERT INTO memo (unit) VALUES (%s)", ("kept",))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(store.execute, "SELECT unit FROM memo").result(10) == [("kept",)]


def test_execute_in_another_thread_is_no_part_of_this_transaction(store: Sql, table: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError), store.transaction():  # noqa: PT012
            store.execute("INSERT INTO memo (unit) VALUES ('mine')")
            theirs = pool.submit(store.execute, "INSERT INTO memo (unit) VALUES ('theirs')")
            wait([theirs], timeout=0.2)  # it may have to wait for us
            raise ValueError
        theirs.result(10)
    assert store.execute("SELECT unit FROM memo") == [("theirs",)]


def test_insert_goes_by_column_name(store: Sql, table: str) -> None:
    with store.transaction():
        store.insert(table, ROWS)
    assert everything(store) == sorted(ROWS.to_pylist(), key=str)
    assert store.execute("SELECT count(*) FROM memo WHERE seen IS NULL") == [(3,)]


def test_insert_of_nothing_is_fine(store: Sql, table: str) -> None:
    with store.transaction():
        store.insert(table, ROWS.slice(0, 0))
    assert everything(store) == []


def test_insert_takes_many_rows(store: Sql, table: str) -> None:
    many = pa.table({"n": pa.array(range(50_000), pa.int64()), "unit": [str(n) for n in range(50_000)]})
    with store.transaction():
        store.insert(table, many)
    assert store.query("SELECT n, unit FROM memo ORDER BY n") == many


def test_query_types_hold_with_and_without_values(store: Sql, table: str) -> None:
    with store.transaction():
        store.insert(table, ROWS)
        store.execute("INSERT INTO memo (unit) VALUES (%s)", ("only nulls",))
    for unit in ("a", "no such unit", "only nulls"):
        found = store.query("SELECT n, unit, fp FROM memo WHERE unit = %s", (unit,))
        assert are_int_text_binary(found)
    assert store.query("SELECT unit AS u, n AS m FROM memo WHERE 1 = 0").column_names == ["u", "m"]


def test_query_gives_counts_as_integers_and_the_rest_as_text(store: Sql) -> None:
    found = store.query("SELECT count(*) AS c, 1.5 AS x FROM people")
    assert found.to_pylist() == [{"c": 0, "x": "1.5"}]


def test_stage_joins_with_tables(store: Sql, table: str) -> None:
    with store.transaction():
        store.insert(table, ROWS)
        store.stage("asked", pa.table({"unit": ["a", "zz"], "fp": pa.array([FP, FP], pa.binary(16))}))
        found = store.query("SELECT m.n FROM asked s JOIN memo m ON m.unit = s.unit AND m.fp = s.fp")
    assert found.to_pylist() == [{"n": 1}]


def test_stage_replaces_what_had_that_name(store: Sql) -> None:
    with store.transaction():
        store.stage("asked", pa.table({"unit": ["a", "b"]}))
        store.stage("asked", pa.table({"other": pa.array([1], pa.int64())}))
        assert store.query("SELECT * FROM asked").to_pylist() == [{"other": 1}]


def test_stage_is_gone_after_the_transaction(store: Sql) -> None:
    for ending in (None, ValueError):
        try:
            with store.transaction():
                store.stage("asked", pa.table({"unit": ["a"]}))
                if ending:
                    raise ending
        except ValueError:
            pass
        with (
            pytest.raises(Exception, match="asked"),
            store.transaction(),
        ):  # a mistake in SQL is raised as it is
            store.execute("SELECT * FROM asked")
        with store.transaction():
            store.stage("asked", pa.table({"other": ["b"]}))
            assert store.query("SELECT other FROM asked").num_rows == 1


def test_staged_names_with_quotes_are_only_names(store: Sql) -> None:
    with store.transaction():
        store.stage('as"ked; --', pa.table({'u"%s': ["a"]}))
        assert store.query('SELECT * FROM "as""ked; --"').to_pylist() == [{'u"%s': "a"}]


def test_a_staged_table_may_have_no_rows(store: Sql) -> None:
    with store.transaction():
        store.stage("asked", ROWS.slice(0, 0))
        assert store.query("SELECT n, unit, fp FROM asked").schema.types == [
            pa.int64(),
            pa.string(),
            pa.binary(),
        ]


def test_a_transaction_rolls_back_what_was_inserted(store: Sql, table: str) -> None:
    with pytest.raises(ValueError), store.transaction():  # noqa: PT012
        store.insert(table, ROWS)
        store.execute("INSERT INTO memo (unit) VALUES ('x')")
        raise ValueError
    assert everything(store) == []


def test_a_readonly_transaction_stages_and_reads_but_does_not_write(store: Sql, table: str) -> None:
    store.execute("INSERT INTO memo (unit, n) VALUES ('a', 1)")
    with store.transaction(readonly=True):
        store.stage("asked", pa.table({"unit": ["a"]}))
        assert store.query("SELECT n FROM asked JOIN memo USING (unit)").to_pylist() == [{"n": 1}]
    with pytest.raises(ResettleError), store.transaction(readonly=True):
        store.execute("INSERT INTO memo (unit) VALUES ('b')")
    assert store.execute("SELECT count(*) FROM memo") == [(1,)]


def test_data_and_memory_commit_together(store: Sql, target: Target, table: str) -> None:
    with pytest.raises(ValueError), target.transaction():  # noqa: PT012
        store.insert(table, ROWS)
        assert store.execute("SELECT count(*) FROM memo") == [(3,)]
        raise ValueError
    assert everything(store) == []
