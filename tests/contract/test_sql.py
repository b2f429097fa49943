"""What every SQL store owes the ledger, see `resettle.connector.Sql`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

import pyarrow as pa
import pytest

from resettle.connector import Sql, Target
from resettle.errors import LedgerError, RejectedError, ResettleError

FP = bytes(range(16))
FINGERPRINT = {"sqlite": "BLOB", "d1": "BLOB", "postgres": "UUID"}
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


@pytest.mark.usefixtures("sees_its_writes")
def test_execute_takes_parameters_and_gives_rows(store: Sql, table: str) -> None:
    with store.transaction():
        assert store.execute("INSERT INTO memo (unit, n) VALUES (%s, %s)", ("it's 100 %s", 7)) == []
        assert store.execute("SELECT unit, n FROM memo WHERE unit = %s AND n = %s", ["it's 100 %s", 7]) == [
            ("it's 100 %s", 7)
        ]
        assert store.execute("UPDATE memo SET n = n + %s RETURNING n", (1,)) == [(8,)]
    assert store.execute("SELECT count(*) FROM memo") == [(1,)]


def test_execute_gives_what_a_statement_returns(store: Sql, table: str) -> None:
    assert store.execute("INSERT INTO memo (unit, n) VALUES (%s, %s)", ("it's 100 %s", 7)) == []
    assert store.execute("SELECT unit, n, seen FROM memo WHERE n = %s", [7]) == [("it's 100 %s", 7, None)]
    assert store.execute("UPDATE memo SET n = n + %s RETURNING n, unit", (1,)) == [(8, "it's 100 %s")]


def test_what_is_demanded_happens_or_nothing_does(store: Sql, table: str) -> None:
    sql = "UPDATE memo SET n = %s WHERE unit = %s RETURNING n"
    store.insert(table, ROWS)
    store.demand(sql, (5, "a"), LedgerError("not there"))
    with store.transaction():
        store.demand(sql, (6, "a"), LedgerError("not there"))
        store.demand(sql, (7, ""), LedgerError("not there"))
    for unit in ("b", "a"):
        with pytest.raises(LedgerError, match="second"), store.transaction():  # noqa: PT012
            store.demand(sql, (8, "a"), LedgerError("first"))
            store.insert(table, ROWS)
            store.demand(sql, (9, "zz"), LedgerError("second"))
            store.demand(sql, (9, unit), LedgerError("third"))
    with pytest.raises(LedgerError, match="not there"):
        store.demand(sql, (9, "zz"), LedgerError("not there"))
    assert sorted(store.query("SELECT n FROM memo WHERE n > 0")["n"].to_pylist()) == [6, 7]


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
    store.insert(table, ROWS)
    with store.transaction():
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


@pytest.mark.usefixtures("sees_its_writes")
def test_data_and_memory_commit_together(store: Sql, target: Target, table: str) -> None:
    with pytest.raises(ValueError), target.transaction():  # noqa: PT012
        store.insert(table, ROWS)
        assert store.execute("SELECT count(*) FROM memo") == [(3,)]
        raise ValueError
    assert everything(store) == []


# -- transactions within transactions --------------------------------------------------------------


@pytest.mark.usefixtures("nests")
def test_statements_of_a_nested_transaction_are_undone_alone(store: Sql, table: str) -> None:
    with store.transaction():
        store.insert(table, ROWS)
        with pytest.raises(ValueError), store.transaction():  # noqa: PT012
            store.execute("DELETE FROM memo")
            assert everything(store) == []
            raise ValueError
        with pytest.raises(Exception, match="no_such_table"), store.transaction():
            store.execute("SELECT * FROM no_such_table")
        with store.transaction():
            store.execute("DELETE FROM memo WHERE n IS NULL")
    assert store.execute("SELECT count(*) FROM memo") == [(2,)]


@pytest.mark.usefixtures("nests")
def test_a_staged_name_is_free_again_after_a_nested_transaction(store: Sql) -> None:
    with store.transaction():
        for ending in (None, ValueError, None, ValueError):
            try:
                with store.transaction():
                    store.stage("asked", pa.table({"unit": ["a", "b"]}))
                    assert store.query("SELECT unit FROM asked").num_rows == 2
                    if ending:
                        raise ending
            except ValueError:
                pass
            store.stage("asked", pa.table({"other": pa.array([1], pa.int64())}))
            assert store.query("SELECT * FROM asked").to_pylist() == [{"other": 1}]
    with pytest.raises(Exception, match="asked"), store.transaction():
        store.execute("SELECT * FROM asked")


@pytest.mark.usefixtures("nests")
def test_a_nested_transaction_may_stage_within_a_readonly_one(store: Sql, table: str) -> None:
    store.execute("INSERT INTO memo (unit, n) VALUES ('a', 1)")
    staged = 0
    with pytest.raises(ResettleError), store.transaction(readonly=True):  # noqa: PT012
        for readonly in (True, False):
            with store.transaction(readonly=readonly):
                store.stage("asked", pa.table({"unit": ["a"]}))
                assert store.query("SELECT n FROM asked JOIN memo USING (unit)").to_pylist() == [{"n": 1}]
                staged += 1
        store.execute("INSERT INTO memo (unit) VALUES ('b')")
    assert staged == 2, "it was the write that was refused, not the staging"
    assert store.execute("SELECT count(*) FROM memo") == [(1,)]


DEFERRED = """
CREATE TABLE late (id INT PRIMARY KEY, above INT CONSTRAINT late_above REFERENCES late DEFERRABLE INITIALLY DEFERRED)
"""


@pytest.mark.usefixtures("nests")
def test_a_deferred_constraint_refuses_at_the_end_of_the_nested_transaction_that_broke_it(store: Sql) -> None:
    store.execute(DEFERRED)
    with store.transaction():
        for number in (1, 3, 5):
            with store.transaction():  # in this order only a deferred constraint allows it
                store.execute("INSERT INTO late VALUES (%s, %s)", (number, number + 1))
                store.execute("INSERT INTO late VALUES (%s, NULL)", (number + 1,))
            with pytest.raises(RejectedError) as caught, store.transaction():
                store.execute("INSERT INTO late VALUES (%s, 77)", (number + 10,))
            assert caught.value.reason == "foreign_key"
            with pytest.raises(RejectedError), store.transaction():
                store.execute("DELETE FROM late WHERE id = %s", (number + 1,))
    assert store.execute("SELECT id FROM late ORDER BY id") == [(number,) for number in range(1, 7)]


@pytest.mark.usefixtures("nests")
def test_a_readonly_scope_leaves_a_deferred_constraint_for_later(store: Sql) -> None:
    store.execute(DEFERRED)
    with store.transaction():
        store.execute("INSERT INTO late VALUES (1, 2)")
        with store.transaction(readonly=True):
            assert store.execute("SELECT count(*) FROM late") == [(1,)]
        store.execute("INSERT INTO late VALUES (2, NULL)")
    assert store.execute("SELECT count(*) FROM late") == [(2,)]
