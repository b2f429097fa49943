"""The functions of a migration are exact, and there is no way from them to files or the network."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resettle.errors import ConfigError
from resettle.mapping.functions import canonical_json, connect, numeric, query, relations, run_tried
from tests.mapping.conftest import Value

NOON = datetime(2025, 12, 26, 12, tzinfo=UTC)
DIGITS = "12345678901234567890123456789012345678"

# -- instant ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1766750400000",
        "1766750400",
        "1766750400000000",
        " 1766750400000 ",
        "1766750400.0",
        "1.7667504E12",
        "2025-12-26T12:00:00.000Z",
        "2025-12-26T13:00:00+01:00",
        "2025-12-26 12:00:00",
        "2025-12-26T12:00:00.000000000Z",
        "2025-12-26T12:00Z",
        "2025-12-26 05:30:00-0630",
    ],
)
def test_every_form_of_an_instant_is_the_same_instant(value: Value, text: str) -> None:
    assert value("instant(x)", text) == NOON
    assert value("instant(x, 'ms')", text) == NOON


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("1766750400123.5", 123_500), ("2025-12-26T12:00:00.123456Z", 123_456), ("1766750400.000001", 1)],
)
def test_instants_keep_their_microseconds(value: Value, text: str, microseconds: int) -> None:
    assert value("instant(x)", text) == NOON.replace(microsecond=microseconds)


def test_a_day_is_its_midnight_in_utc(value: Value) -> None:
    assert value("instant(x)", "2025-12-26") == NOON.replace(hour=0)


@pytest.mark.parametrize("text", [None, "", "0", "  "])
def test_nothing_and_zero_are_no_instant(value: Value, text: str | None) -> None:
    assert value("instant(x)", text) is None


@pytest.mark.parametrize(
    "text",
    [
        "1",  # neither 1970 ...
        "99999999",
        "176675040000000000",  # ... nor the year 57,956
        "1766750400.0000001",  # finer than a microsecond
        "2025-12-26T12:00:00.1234567Z",
        "2025-02-30",
        "2025-13-01T00:00:00Z",
        "26.12.2025",
        "tomorrow",
        "12:00",
        "NaN",
        "2025-12-26T12:00:00 Europe/Berlin",
    ],
)
def test_what_is_no_sure_instant_is_refused(value: Value, text: str) -> None:
    with pytest.raises(duckdb.Error):
        value("instant(x)", text)
    assert value("try(instant(x))", text) is None, "and can be asked for"


# -- JSON --------------------------------------------------------------------------------------------------------


def test_a_number_of_38_digits_keeps_them(value: Value) -> None:
    document = f'{{"n": {DIGITS}, "f": 0.{DIGITS}, "list": [1.50, {{"deep": 1E+2}}]}}'
    assert value("x->'n'", document) == DIGITS
    assert value("x->>'f'", document) == f"0.{DIGITS}"
    assert value("x->'list'->0", document) == "1.50"
    assert value("json_at(x, '$.list[1].deep')", document) == "1E+2"


def test_texts_come_with_or_without_their_quotes(value: Value) -> None:
    document = '{"a": "é\\n👩", "e": ""}'
    assert value("x->>'a'", document) == "é\n👩"
    assert value("x->'a'", document) == '"é\\n👩"'
    assert value("x->>'e'", document) == ""


@pytest.mark.parametrize("document", ['{"a": null}', "{}", "[]", "text", "", '"a"', "1", None, '{"a'])
def test_what_is_not_there_is_null(value: Value, document: str | None) -> None:
    assert value("x->'a'", document) is None
    assert value("x->>'a'", document) is None


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ("{}", "object"),
        (" [1]", "array"),
        ('"a"', "string"),
        ("-1.5e3", "number"),
        ("true", "boolean"),
        ("null", "null"),
        ("text", "text"),
        ("", "text"),
        ('{"a":}', "text"),
        (None, None),
    ],
)
def test_json_kind_says_what_a_text_is(value: Value, document: str | None, kind: str | None) -> None:
    assert value("json_kind(x)", document) == kind


def canonical(document: str) -> str:
    found: str = canonical_json(pa.chunked_array([[document]]))[0].as_py()
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1,"b":2}', '{ "b" : 2, "a" : 1 }'),
        ("1.0", "1"),
        ("1.50", "1.5"),
        ("1e2", "100"),
        ("-0", "0"),
        ("0.00001", "1e-5"),
        ('"\\u00e9"', '"é"'),
        (f"{DIGITS}.0", DIGITS),
        ('[1.10, {"b": 1, "a": 2E1}]', '[1.1,{"a":20,"b":1}]'),
        ('{"a":1,"a":2}', '{"a":2}'),
    ],
)
def test_equal_documents_are_equal(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", '"1"'),
        (DIGITS, DIGITS[:-1] + "9"),
        (f"0.{DIGITS}", f"0.{DIGITS[:-1]}9"),
        ("[1,2]", "[2,1]"),
        ('{"a":null}', "{}"),
        ("null", '"null"'),
        ('"e\\u0301"', '"é"'),
        ("9007199254740993", "9007199254740992"),
        ("1e400", "1e401"),
        ("0.1000000000000000055", "0.1"),
    ],
)
def test_different_documents_are_different(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def written(document: object, *, turned: bool) -> str:
    """JSON text of a value, its members in either order."""
    if isinstance(document, Decimal):
        return format(document, "f") if turned else str(document).replace("E+", "e")
    if isinstance(document, list):
        return "[" + ", ".join(written(one, turned=turned) for one in document) + "]"
    if isinstance(document, dict):
        members = [f"{json.dumps(k)}:{written(v, turned=turned)}" for k, v in document.items()]
        return "{" + ",".join(reversed(members) if turned else members) + "}"
    return json.dumps(document, ensure_ascii=turned)


@given(DOCUMENTS)
@settings(max_examples=200, deadline=None)
def test_however_a_document_is_written_it_is_the_same(document: object) -> None:
    assert canonical(written(document, turned=False)) == canonical(written(document, turned=True))


# -- numbers -----------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    found: str = numeric(pa.chunked_array([[text]]))[0].as_py()
    return found


@given(st.decimals(allow_nan=False, allow_infinity=False), st.sampled_from(["{}", "{:f}", "{:e}", " {} "]))
@settings(max_examples=300, deadline=None)
def test_a_number_is_plain_and_exactly_itself(number: Decimal, form: str) -> None:
    text = plain(form.format(number))
    assert Decimal(text) == number
    assert "e" not in text.lower()
    assert plain(text) == text
    assert not ("." in text and text.endswith("0"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.50", "1.5"), ("+7", "7"), ("-0.0", "0"), ("1e3", "1000"), (".5", "0.5"), ("007", "7"), (DIGITS, DIGITS)],
)
def test_numeric_text_is_the_shortest_plain_form(value: Value, text: str, expected: str) -> None:
    assert value("numeric_text(x)", text) == expected


@pytest.mark.parametrize(
    "text", ["abc", "", "NaN", "Infinity", "1_000", "١٢", "1,5", "0x10", "--1", "1e", "9" * 2001 + ".0", "1e9999999"]
)
def test_what_is_no_finite_number_is_refused(value: Value, text: str) -> None:
    with pytest.raises(duckdb.Error):
        value("numeric_text(x)", text)
    assert value("try(numeric_text(x))", text) is None


# -- uuid5 and the rest --------------------------------------------------------------------------------------------

SPACE = "3f0b7d3e-6a3c-4f5e-9d55-6f6b0c6f1a77"


@given(st.uuids(), st.text())
@settings(max_examples=200, deadline=None)
def test_uuid5_is_that_of_python(base: duckdb.DuckDBPyConnection, space: uuid.UUID, name: str) -> None:
    found = base.execute("SELECT uuid5(?, ?)", [str(space), name]).fetchall()[0][0]
    assert found == uuid.uuid5(space, name)


def test_uuid5_of_nothing_is_nothing(value: Value) -> None:
    assert value(f"uuid5('{SPACE}', x)") is None


@pytest.mark.parametrize(("text", "expected"), [("", None), ("  ", None), (" a ", "a"), (None, None)])
def test_blank_null_drops_what_is_blank(value: Value, text: str | None, expected: str | None) -> None:
    assert value("blank_null(x)", text) == expected


# -- what DuckDB does with our texts ---------------------------------------------------------------------------------


@given(
    words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.none(), min_size=1, max_size=7),
    expression=st.sampled_from(
        [
            "coalesce(x->>'a', x->>'b')",
            "CASE WHEN n % 2 = 0 THEN x->>'a' ELSE coalesce(x->>'b', 'none') END",
            "coalesce(x->>'a', 'none') || coalesce(x->>'b', '')",
            "CASE json_kind(x) WHEN 'object' THEN coalesce(x->'a', '{}') ELSE x END",
        ]
    ),
)
@settings(max_examples=10, deadline=None)
def test_texts_of_functions_survive_coalesce_and_case_over_many_rows(
    base: duckdb.DuckDBPyConnection, words: list[str | None], expression: str
) -> None:
    """DuckDB 1.5 frees what an Arrow function gives too early; the functions copy their texts."""
    from resettle.mapping.sql import parse_expression

    rows = 20_000
    documents = [{"a": words[n % len(words)], "b": f"{n} is a text that is not inlined"} for n in range(rows)]
    texts = pa.array([json.dumps(document, ensure_ascii=False) for document in documents], pa.string())
    base.register("_many", pa.table({"x": texts, "n": pa.array(range(rows))}))
    found = query(base, f"SELECT {parse_expression(expression).sql} AS y FROM _many")["y"].to_pylist()
    base.unregister("_many")

    def expected(n: int) -> str:
        a, b = documents[n]["a"], documents[n]["b"]
        first = a if a is not None else None
        return {
            "coalesce(x->>'a'": first if first is not None else b,
            "CASE WHEN n": (first if n % 2 == 0 else b),
            "coalesce(x->>'a', 'none')": (first if first is not None else "none") + str(b),
            "CASE json_kind": "{}" if first is None else json.dumps(first, ensure_ascii=False),
        }[
            next(
                key
                for key in ("coalesce(x->>'a', 'none')", "coalesce(x->>'a'", "CASE WHEN n", "CASE json_kind")
                if expression.startswith(key)
            )
        ]  # type: ignore[return-value]

    assert found == [expected(n) for n in range(rows)]


# -- functions of one's own --------------------------------------------------------------------------------------------

OWN = """
from decimal import Decimal

FACTOR = 2

def double(number: int | None) -> int | None:
    return None if number is None else number * FACTOR

def joined(one: str, other: str) -> str:
    return f"{one}-{other}"

def is_long(text: str | None) -> bool:
    return len(text or "") > 3

def fails(text: str) -> str:
    return {}[text]

def _private(text: str) -> str:
    return text
"""


def test_functions_of_ones_own_have_the_types_of_their_hints(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(OWN)
    base = connect(tmp_path / "functions.py")
    row = base.execute("SELECT double(21), double(NULL), joined('a', 'b'), is_long('four'), is_long(NULL)").fetchall()[
        0
    ]
    assert row == (42, None, "a-b", True, False)


def test_a_private_or_imported_function_is_none_of_sql(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(OWN + "\nfrom os.path import join\n")
    base = connect(tmp_path / "functions.py")
    for name in ("_private('x')", "join('x', 'y')"):
        with pytest.raises(duckdb.CatalogException):
            base.execute(f"SELECT {name}")


def test_a_function_that_fails_on_one_row_can_be_tried(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(OWN)
    base = connect(tmp_path / "functions.py")
    assert base.execute("SELECT try(fails('x'))").fetchall() == [(None,)]


@pytest.mark.parametrize("text", ["def f(:", "import nosuchmodule", "1 / 0"])
def test_functions_that_do_not_load_are_told_with_their_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "functions.py").write_text(text)
    with pytest.raises(ConfigError, match=r"functions\.py"):
        connect(tmp_path / "functions.py")


# -- relations --------------------------------------------------------------------------------------------------------


def test_sql_sees_tables_by_name_only_while_it_runs(base: duckdb.DuckDBPyConnection) -> None:
    ours = pa.table({"n": [1, 2]})
    joined = query(base, "SELECT n * $by AS n FROM a JOIN b USING (n)", {"by": 10}, a=ours, b=ours.slice(1))
    assert joined["n"].to_pylist() == [20]
    assert run_tried(base, "SELECT TRY(CAST('x' AS INTEGER)) AS n FROM a", a=ours)["n"].to_pylist() == [None, None]
    with relations(base, a=ours):
        assert [query(base, f"SELECT n FROM a WHERE n = {n}").num_rows for n in (1, 3)] == [1, 0]
    assert _registered(base) == set()


def test_no_table_stays_registered_after_an_error(base: duckdb.DuckDBPyConnection) -> None:
    ours = pa.table({"n": ["x"]})
    for ask in (query, run_tried):
        with pytest.raises(duckdb.Error):
            ask(base, "SELECT CAST(n AS INTEGER) FROM a JOIN b USING (n)", a=ours, b=ours)
    with pytest.raises(duckdb.Error), relations(base, a=ours, b=3):
        raise AssertionError("b is no table")
    assert _registered(base) == set()


def _registered(connection: duckdb.DuckDBPyConnection) -> set[str]:
    views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    return {name for (name,) in views} & {"a", "b"}


# -- no way out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM read_parquet('{file}')",
        "COPY (SELECT 1) TO '{file}.out'",
        "ATTACH '{file}.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM local_table",
        "SET enable_external_access = true",
        "SELECT * FROM glob('{file}*')",
    ],
)
def test_there_is_no_way_to_files_the_network_or_python(tmp_path: Path, sql: str) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("a\n1\n")
    local_table = pa.table({"a": [1]})
    with pytest.raises(duckdb.Error):
        connect().execute(sql.format(file=file))
    assert local_table.num_rows == 1
    assert sorted(tmp_path.iterdir()) == [file]
