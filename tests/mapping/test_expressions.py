"""Expressions are SQL that gives the same for the same record: exact JSON, no clock, no files, no queries."""

from __future__ import annotations

import pytest

from resettle.mapping.sql import SqlError, parse_expression, parse_query


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("a", "a"),
        ("doc->'a'", "json_at(doc, 'a')"),
        ("doc->>'a'", "json_text(doc, 'a')"),
        ("doc->'a'->>'b'", "json_text(json_at(doc, 'a'), 'b')"),
        ("json_extract(doc, '$.a')", "json_at(doc, '$.a')"),
        ("json_extract_string(doc, '$.a')", "json_text(doc, '$.a')"),
        ("coalesce(doc->>'a', doc->>'b')", "COALESCE(json_text(doc, 'a'), json_text(doc, 'b'))"),
    ],
)
def test_json_is_reached_exactly(text: str, sql: str) -> None:
    assert parse_expression(text).sql == sql


def test_a_lambda_stays_a_lambda() -> None:
    parsed = parse_expression("list_transform(string_split(tags, ','), lambda t: upper(t))")
    assert "json_at" not in parsed.sql
    assert [name for _, name, _ in parsed.columns] == ["tags"]


@pytest.mark.parametrize(
    "text",
    ["now()", "NOW()", "current_timestamp", "current_date", "random()", "uuid()", "gen_random_uuid()", "a || today()"],
)
def test_what_gives_another_value_each_run_is_refused(text: str) -> None:
    with pytest.raises(SqlError, match="gives another value each run"):
        parse_expression(text)
    with pytest.raises(SqlError, match="gives another value each run"):
        parse_query(f"SELECT *, {text} AS x FROM source")


@pytest.mark.parametrize(
    "text",
    ["a, b", "a FROM t", "a; SELECT b", "", "a WHERE b", "* FROM read_csv('x')", "DROP TABLE x", "a UNION SELECT 1"],
)
def test_what_is_no_single_expression_is_refused(text: str) -> None:
    with pytest.raises(SqlError):
        parse_expression(text)


@pytest.mark.parametrize("text", ["SELECT 1; SELECT 2", "DELETE FROM source", "CREATE TABLE x (a INT)", "SELECT FROM"])
def test_what_is_no_single_select_is_refused(text: str) -> None:
    with pytest.raises(SqlError):
        parse_query(text)


def test_columns_are_named_with_their_place() -> None:
    parsed = parse_expression("upper(name) || object.key || source.age")
    assert parsed.columns == ((None, "name", 6), ("object", "key", 15), ("source", "age", 29))


def test_a_mistake_has_its_place() -> None:
    with pytest.raises(SqlError) as caught:
        parse_expression("a + + ) b")
    assert caught.value.position == 6


@pytest.mark.parametrize(
    "text", ["x = 1 and a->>'b' = 'c'", "a->'b' is null", "not a->>'b' = 'c'", "x and a->'b' is null"]
)
def test_an_arrow_that_would_swallow_a_comparison_is_refused(text: str) -> None:
    with pytest.raises(SqlError, match="in brackets"):
        parse_expression(text)
    parse_expression("a->>'b' = 'c' and (a->'b') is null and x in (a->>'b')")
