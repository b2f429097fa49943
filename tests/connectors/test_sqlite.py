"""What is peculiar to SQLite: values that disobey their type, affinities, locks, damaged and missing files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from resettle.batch import TROUBLE, Action, Kind
from resettle.calls import Caller
from resettle.connectors.d1 import D1, D1Settings
from resettle.connectors.sqlite import ERRORS, SQLite, SQLiteSettings, errors
from resettle.errors import AccessError, ConfigError, ConnectorError, CorruptError, RejectedError, TransientError
from resettle.sandbox.d1 import start_d1


def opened(path: Path, script: str = "", **settings: Any) -> SQLite:
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()
    return SQLite("d1", SQLiteSettings(path=path, **settings))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d1.sqlite"


ROLLS_BACK = """
CREATE TABLE t (id INTEGER PRIMARY KEY);
CREATE TRIGGER odd BEFORE INSERT ON t WHEN NEW.id % 2 BEGIN SELECT RAISE(ROLLBACK, 'odd'); END;
"""


def test_what_follows_a_trigger_that_rolled_back_the_transaction_is_not_committed(path: Path) -> None:
    store = opened(path, ROLLS_BACK)
    one, two = (pa.table({"id": pa.array([number])}) for number in (1, 2))
    with pytest.raises(ConnectorError, match="rolled back"), store.transaction():  # noqa: PT012
        with pytest.raises(RejectedError), store.transaction():
            store.write("t", one, ["id"], Action.CREATE)
        with pytest.raises(ConnectorError, match="rolled back"), store.transaction():
            store.write("t", two, ["id"], Action.CREATE)
        store.execute("INSERT INTO t VALUES (4)")
    with pytest.raises(ConnectorError, match="rolled back"):
        store.refusals([("t", pa.table({"id": pa.array([1, 2])}), ["id"], Action.CREATE)], [pa.array(["a", "b"])])
    assert store.empty("t")


def test_orphans_from_before_do_not_refuse_a_nested_transaction(path: Path) -> None:
    store = opened(
        path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, up INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO t VALUES (1, 99)",
    )
    with store.transaction():
        with store.transaction():
            store.execute("INSERT INTO t VALUES (2, 1)")
        with pytest.raises(RejectedError), store.transaction():
            store.execute("INSERT INTO t VALUES (3, 98)")
    assert store.count("t") == 2


ORDERED = """
CREATE TABLE named (id TEXT PRIMARY KEY, word TEXT UNIQUE);
CREATE TABLE numbered (id INTEGER PRIMARY KEY, word TEXT UNIQUE);
"""


def words(store: SQLite | D1, dataset: str) -> list[str]:
    return [word for (word,) in store.execute(f"SELECT word FROM {dataset} ORDER BY rowid")]


@pytest.mark.parametrize("kind", ["sqlite", "d1"])
def test_rows_go_in_by_their_key_but_as_they_came_where_the_database_numbers_them(path: Path, kind: str) -> None:
    opened(path, ORDERED).close()
    with start_d1(path) as local:
        store = (
            SQLite("one", SQLiteSettings(path=path)) if kind == "sqlite" else D1("one", D1Settings(**local.settings()))
        )
        came = ["cherry", "apple", "banana"]
        rows = pa.table({"id": ["1", "2", "3"], "word": came})
        store.write("named", rows, ["word"], Action.CREATE)
        store.write("numbered", rows.select(["word"]), ["word"], Action.CREATE)
        store.write(
            "numbered", pa.table({"id": pa.array([None, 9, None]), "word": ["z", "y", "x"]}), ["word"], Action.CREATE
        )
        assert words(store, "named") == sorted(came)
        assert words(store, "numbered") == [*came, "z", "y", "x"]
        store.close()


def read(store: SQLite, dataset: str, rows: int = 100, wanted: int = 3) -> list[dict[str, Any]]:
    parts = store.partitions(dataset, wanted)
    return [row for part in parts for batch in store.read(part, rows) for row in batch.table.to_pylist()]


MIXED = """
CREATE TABLE t (i INTEGER, r REAL, b BLOB, d DATETIME, x);
INSERT INTO t VALUES (1750717972797, 0.1, x'00ff', '2025-06-24 04:06:52', 9007199254740993),
                     ('2025-06-24 04:06:52', 1, 'text', 1750717972797, 0.30000000000000004),
                     (1750717972797.5, 'n/a', 7, 1e300, x'c3a9'), (NULL, NULL, NULL, NULL, NULL);
"""
AS_TEXT = [
    {"i": "1750717972797", "r": "0.1", "b": b"\x00\xff", "d": "2025-06-24 04:06:52", "x": "9007199254740993"},
    {"i": "2025-06-24 04:06:52", "r": "1.0", "b": b"text", "d": "1750717972797", "x": "0.30000000000000004"},
    {"i": "1750717972797.5", "r": "n/a", "b": b"7", "d": "1e+300", "x": "é"},
    dict.fromkeys("irbdx"),
]


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_values_that_disobey_their_type_are_read_exactly_in_any_batch(path: Path, rows: int) -> None:
    assert read(opened(path, MIXED, readonly=True), "t", rows) == AS_TEXT


def test_fetching_a_value_of_another_type_is_refused_by_column(path: Path) -> None:
    store = opened(
        path,
        "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, b BOOLEAN, raw BLOB);"
        "INSERT INTO t VALUES ('a', 'x1', 7, 'x1')",
    )
    keys = pa.table({"id": ["a"]})
    for column in ("n", "b", "raw"):
        with pytest.raises(RejectedError, match=f"nonconforming {column}$") as caught:
            store.fetch("t", keys, [column])
        assert "x1" not in str(caught.value)


def test_text_that_is_not_utf8_troubles_only_its_record(path: Path) -> None:
    store = opened(path, "CREATE TABLE t (id TEXT, name TEXT)")
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO t VALUES (?, CAST(? AS TEXT))", [("a", b"good"), ("b", b"\xff\xfe"), ("c", b"\xc3\xa9")]
        )
    assert read(store, "t", wanted=1) == [
        {"id": "a", "name": "good", TROUBLE: None},
        {"id": "b", "name": None, TROUBLE: "name: not UTF-8"},
        {"id": "c", "name": "é", TROUBLE: None},
    ]
    with pytest.raises(RejectedError, match="nonconforming"):
        store.fetch("t", pa.table({"id": ["b"]}), ["name"])


AFFINITY = "CREATE TABLE t (id TEXT PRIMARY KEY, at TIMESTAMP, code STRING, amount DECIMAL(38, 2), x REAL)"


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        ("at", "2025-06-24 04:06:52", True),
        ("at", "1750717972797", True),
        ("code", "007", False),
        ("code", "1e5", False),
        ("code", "12e4567890", False),
        ("code", "1.5", True),
        ("code", "1.50", False),
        ("amount", "1.50", True),
        ("amount", "9223372036854775807", True),
        ("amount", "9223372036854775808", False),
        ("amount", "123456789012345678.91", False),
        ("x", float("nan"), False),
        ("x", float("inf"), True),
        ("x", 0.1 + 0.2, True),
    ],
)
def test_what_an_affinity_would_change_is_refused(path: Path, column: str, value: Any, kept: bool) -> None:
    store = opened(path, AFFINITY)
    rows = pa.table({"id": ["a"], column: [value]})
    if kept:
        store.write("t", rows, ["id"], Action.CREATE)
        found = store.fetch("t", rows.select(["id"]), [column])[column].to_pylist()
        assert found == [value] or column == "amount"
        assert column != "amount" or float(found[0]) == float(value)
    else:
        with pytest.raises(RejectedError, match=f"inexact {column}$"):
            store.write("t", rows, ["id"], Action.CREATE)
        assert store.empty("t")


def test_a_tables_own_replace_clause_overwrites_nothing(path: Path) -> None:
    store = opened(
        path, "CREATE TABLE t (id TEXT PRIMARY KEY ON CONFLICT REPLACE, n INT); INSERT INTO t VALUES ('a', 1)"
    )
    with pytest.raises(RejectedError, match="exists"):
        store.write("t", pa.table({"id": ["a"], "n": [2]}), ["id"], Action.CREATE)
    assert store.execute("SELECT n FROM t") == [(1,)]


def test_columns_named_rowid_are_only_columns(path: Path) -> None:
    store = opened(
        path, "CREATE TABLE t (rowid TEXT, oid TEXT); INSERT INTO t VALUES ('z', '1'), ('a', '2'), ('z', '3')"
    )
    assert [row["oid"] for row in read(store, "t", 1)] == ["1", "2", "3"]


def test_the_schema_tells_what_sqlite_knows(path: Path) -> None:
    store = opened(
        path,
        """
        CREATE TABLE users (id INTEGER PRIMARY KEY, email VARCHAR(80) NOT NULL DEFAULT 'a)b');
        CREATE UNIQUE INDEX by_email ON users (email);
        CREATE UNIQUE INDEX live ON users (email) WHERE id > 0;
        CREATE UNIQUE INDEX lower_email ON users (lower(email));
        CREATE TABLE logs (
            user_id INTEGER NOT NULL REFERENCES users, type TEXT CHECK (type IN ('A', 'it''s)', 'C')),
            n INT CONSTRAINT positive CHECK (n > 0 AND (n < 9)), doubled INT AS (n * 2) STORED,
            CHECK(length(type) < 10), PRIMARY KEY (user_id, n)) WITHOUT ROWID;
        CREATE TRIGGER bump AFTER UPDATE ON logs BEGIN SELECT 1; END;
        """,
    )
    users, logs = store.schema("users"), store.schema("logs")
    assert store.datasets() == ["logs", "users"]
    assert users.unique == (("email",),)
    assert [(c.name, c.kind, c.nullable, c.has_default) for c in users.columns] == [
        ("id", Kind.INT64, False, True),
        ("email", Kind.TEXT, False, True),
    ]
    assert logs.key == ("user_id", "n")
    assert logs.foreign_keys[0].target_columns == ("id",)
    assert logs.checks == {
        "check_1": "type IN ('A', 'it''s)', 'C')",
        "positive": "n > 0 AND (n < 9)",
        "check_2": "length(type) < 10",
    }
    assert logs.triggers == ("bump",)
    kind, doubled = logs.column("type"), logs.column("doubled")
    assert kind is not None
    assert kind.choices == ("A", "it's)", "C")
    assert doubled is not None
    assert doubled.generated


def test_a_missing_file_is_a_config_error_that_names_one_nearby(tmp_path: Path) -> None:
    opened(tmp_path / "backend.sqlite", "CREATE TABLE t (a)").close()
    with pytest.raises(ConfigError) as caught:
        SQLite("d1", SQLiteSettings(path=tmp_path / "backand.sqlite"))
    assert "'backend.sqlite'" in str(caught.value.hint)
    assert not (tmp_path / "backand.sqlite").exists()


def test_create_makes_the_file(tmp_path: Path) -> None:
    store = SQLite("ledger", SQLiteSettings(path=tmp_path / "new" / "ledger.sqlite", create=True))
    store.execute("CREATE TABLE t (a)")
    assert store.empty("t")


def test_who_only_looks_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.sqlite"
    store = SQLite("ledger", SQLiteSettings(path=path, create=True))
    assert store.datasets() == []
    assert not path.parent.exists()
    store.execute("CREATE TABLE t (a)")
    assert store.datasets() == ["t"]
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]


def test_a_file_of_ours_that_lost_all_it_held_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.touch()
    with pytest.raises(CorruptError, match="is empty"):
        SQLite("ledger", SQLiteSettings(path=path, create=True))


def test_what_is_no_database_is_corrupt(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(CorruptError):
        SQLite("d1", SQLiteSettings(path=path)).datasets()


def test_a_damaged_page_is_found_before_anything_is_read(path: Path) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
    store = opened(path, f"CREATE TABLE t (a, b); INSERT INTO t {numbers} SELECT i, 'some text ' || i FROM n")
    assert store.partitions("t", 2)
    store.close()
    with path.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\xff" * 4096)
    with pytest.raises(CorruptError):
        SQLite("d1", SQLiteSettings(path=path)).partitions("t", 2)


def test_rows_that_disobey_a_check_are_no_damage(path: Path) -> None:
    store = opened(
        path, "CREATE TABLE t (a CHECK (a > 0)); PRAGMA ignore_check_constraints = ON; INSERT INTO t VALUES (-1)"
    )
    assert read(store, "t") == [{"a": "-1"}]


def test_a_lock_held_by_another_is_transient(path: Path) -> None:
    opened(path, "CREATE TABLE t (a)").close()
    store = SQLite("d1", SQLiteSettings(path=path, busy_timeout=0), caller=Caller(errors, attempts=1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransientError), store.transaction():
        pass
    other.execute("ROLLBACK")
    with store.transaction():
        store.execute("INSERT INTO t VALUES (1)")


def test_a_readonly_connection_refuses_to_write(path: Path) -> None:
    store = opened(path, "CREATE TABLE t (id TEXT PRIMARY KEY)", readonly=True)
    with pytest.raises(AccessError):
        store.write("t", pa.table({"id": ["a"]}), ["id"], Action.CREATE)
    with pytest.raises(AccessError):
        store.execute("INSERT INTO t VALUES ('a')")
    assert store.schema("t").privileges == {"select"}


def test_a_source_may_be_the_file_that_is_written(path: Path) -> None:
    store = opened(
        path, "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY)", busy_timeout=0
    )
    store.write("a", pa.table({"id": list(range(1000))}), ["id"], Action.CREATE)
    source = SQLite("source", SQLiteSettings(path=path, readonly=True, busy_timeout=0))
    for batch in source.read(source.partitions("a", 1)[0], 10):
        with store.transaction():
            ids = pa.table({"id": pa.array([int(one) for one in batch.table["id"].to_pylist()])})
            store.write("b", ids, ["id"], Action.CREATE)
    assert store.count("b") == 1000


def test_a_trigger_that_refuses_is_named(path: Path) -> None:
    script = (
        "CREATE TABLE t (id TEXT PRIMARY KEY); CREATE TRIGGER guard BEFORE INSERT ON t"
        " BEGIN SELECT RAISE(ABORT, 'closed'); END;"
    )
    with pytest.raises(RejectedError) as caught:
        opened(path, script).write("t", pa.table({"id": ["a"]}), ["id"], Action.CREATE)
    assert caught.value.reason == "trigger"


CODES = [name for name in dir(sqlite3) if name.startswith("SQLITE_") and isinstance(getattr(sqlite3, name), int)]


@pytest.mark.parametrize("code", sorted({getattr(sqlite3, name) for name in CODES} & set(ERRORS)))
def test_every_listed_code_is_translated_extended_or_not(code: int) -> None:
    for extended in (code, code | 1 << 8):
        error = sqlite3.OperationalError("said")
        error.sqlite_errorcode, error.sqlite_errorname = extended, "SQLITE_SOMETHING"
        found = errors(error, "d1")
        assert type(found) is ERRORS[code]
        assert str(found) == "d1: said"


def test_a_mistake_in_a_statement_is_raised_as_it_is(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        opened(path).execute("SELECT nonsense FROM nowhere")


def test_a_marker_inside_quotes_is_text(path: Path) -> None:
    assert opened(path).execute("SELECT '%s', %s AS \"%s\"", ("a",)) == [("%s", "a")]


def test_a_large_transaction_does_not_lock_readers_out(path: Path) -> None:
    store = opened(path, "CREATE TABLE t (id TEXT PRIMARY KEY, text TEXT)")
    reader = SQLite(
        "reader", SQLiteSettings(path=path, readonly=True, busy_timeout=0), caller=Caller(errors, attempts=1)
    )
    with store.transaction():
        rows = pa.table({"id": [str(n) for n in range(20_000)], "text": ["x" * 500] * 20_000})
        store.write("t", rows, ["id"], Action.CREATE)
        assert reader.count("t") == 0
    assert reader.count("t") == 20_000


def half_written(path: Path) -> None:
    """A table with one committed row, and beside it the journal of a process that was killed in its next commit."""
    living = path.with_name("living.sqlite")
    with closing(sqlite3.connect(living, isolation_level=None)) as writer:
        writer.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT); INSERT INTO t VALUES (0, 'kept')")
        writer.executescript("PRAGMA cache_size = 1; BEGIN; DELETE FROM t")
        writer.executemany("INSERT INTO t VALUES (?, ?)", ((number, "x" * 500) for number in range(1, 200)))
        path.write_bytes(living.read_bytes())
        path.with_name(f"{path.name}-journal").write_bytes(Path(f"{living}-journal").read_bytes())


def test_what_a_killed_process_left_half_written_is_taken_back_before_we_read(path: Path) -> None:
    half_written(path)
    assert SQLite("d1", SQLiteSettings(path=path)).execute("SELECT id, text FROM t") == [(0, "kept")]


def test_a_connection_that_only_reads_changes_no_half_written_file(path: Path) -> None:
    half_written(path)
    before = path.read_bytes()
    with pytest.raises(AccessError, match="readonly"):
        SQLite("d1", SQLiteSettings(path=path, readonly=True)).count("t")
    assert path.read_bytes() == before
