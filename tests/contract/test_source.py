"""What every source owes, see `resettle.connector.Source`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from resettle.batch import Partition
from resettle.connector import Source
from resettle.errors import ConfigError
from tests.contract.cases import Row, SourceCase, records

MakeSource = Callable[[Sequence[Row]], Source]

ROWS: list[Row] = [
    {"id": f"p{number:04}", "name": f"name {number}" if number % 7 else None, "age": number * 10**12}
    for number in range(95)
]
TEXTS = [
    "",
    " ",
    "emoji 👩‍👩‍👧 é",
    "quote \" ' \\ %s",
    "line\nbreak\ttab",
    "null",
    "007",
    "1e5",
    "true",
    "\u2028",
]


def expected(rows: Sequence[Row]) -> list[dict[str, str | None]]:
    return [{name: None if value is None else str(value) for name, value in row.items()} for row in rows]


def test_every_record_arrives(make_source: MakeSource) -> None:
    assert records(make_source(ROWS), "people") == expected(ROWS)


@pytest.mark.parametrize("wanted", [1, 2, 4, 16, 1000])
def test_partitions_hold_every_record_exactly_once(make_source: MakeSource, wanted: int) -> None:
    source = make_source(ROWS)
    assert 1 <= len(source.partitions("people", wanted)) <= max(2 * wanted, 4)
    assert records(source, "people", wanted=wanted, rows=10) == expected(ROWS)


def test_partitions_are_really_parts(make_source: MakeSource, source_case: SourceCase) -> None:
    source = make_source(ROWS)
    filled = [
        partition
        for partition in source.partitions("people", 3)
        if sum(len(batch) for batch in source.read(partition, 1000))
    ]
    assert len(filled) > 1 or not source_case.parallel
    assert len({partition.name for partition in filled}) == len(filled)


@pytest.mark.parametrize("rows", [1, 7, 95, 96, 1000])
def test_any_batch_size_gives_the_same_records(make_source: MakeSource, rows: int) -> None:
    assert records(make_source(ROWS), "people", rows=rows) == expected(ROWS)


def test_a_batch_is_not_much_larger_than_asked_for(make_source: MakeSource) -> None:
    source = make_source(ROWS)
    sizes = [len(batch) for part in source.partitions("people", 1) for batch in source.read(part, 10)]
    assert sum(sizes) == len(ROWS)
    assert max(sizes) <= 20


def test_reading_twice_gives_the_same(make_source: MakeSource) -> None:
    source = make_source(ROWS)
    partition = source.partitions("people", 1)[0]
    first, second = ([batch.table for batch in source.read(partition, 10)] for _ in range(2))
    assert first == second


def test_text_keeps_its_code_points(make_source: MakeSource) -> None:
    rows: list[Row] = [{"id": f"t{number:02}", "name": text, "age": None} for number, text in enumerate(TEXTS)]
    assert records(make_source(rows), "people") == expected(rows)


def test_an_empty_string_is_not_null(make_source: MakeSource) -> None:
    rows: list[Row] = [{"id": "a", "name": "", "age": 1}, {"id": "b", "name": None, "age": None}]
    assert [row["name"] for row in records(make_source(rows), "people")] == ["", None]


def test_whole_numbers_keep_every_digit(make_source: MakeSource) -> None:
    rows: list[Row] = [{"id": str(number), "name": "n", "age": 2**63 - 1 - number} for number in range(3)]
    assert records(make_source(rows), "people") == expected(rows)


def test_an_empty_dataset_has_partitions_and_no_records(make_source: MakeSource) -> None:
    source = make_source([])
    assert source.partitions("people", 4)
    assert records(source, "people", wanted=4) == []


def test_count_is_exact_or_unknown(make_source: MakeSource) -> None:
    assert make_source(ROWS).count("people") in (None, len(ROWS))


def test_datasets_are_listed_and_sorted(make_source: MakeSource) -> None:
    found = list(make_source(ROWS).datasets())
    assert "people" in found
    assert found == sorted(found)


def test_the_schema_names_the_columns(make_source: MakeSource) -> None:
    schema = make_source(ROWS).schema("people")
    assert schema.dataset == "people"
    assert {"id", "name", "age"} <= set(schema.names)
    assert schema.open or schema.key == ("id",)


@pytest.mark.parametrize("name", ["peple", "People "])
def test_an_unknown_dataset_is_a_config_error_with_a_suggestion(make_source: MakeSource, name: str) -> None:
    source = make_source(ROWS)
    for ask in (source.schema, lambda dataset: source.partitions(dataset, 1)):
        with pytest.raises(ConfigError) as caught:
            ask(name)
        assert "people" in f"{caught.value} {caught.value.hint}"


def test_a_name_with_quotes_is_only_an_unknown_name(make_source: MakeSource) -> None:
    source = make_source(ROWS)
    with pytest.raises(ConfigError):
        source.schema('people"; drop table people; --')
    with pytest.raises(ConfigError):
        source.partitions('people"; drop table people; --', 1)
    assert records(source, "people") == expected(ROWS)


def test_partitions_can_be_read_from_many_threads(make_source: MakeSource) -> None:
    source = make_source(ROWS)
    parts = source.partitions("people", 4)
    together = threading.Barrier(len(parts), timeout=10)

    def read(partition: Partition) -> int:
        together.wait()
        return sum(len(batch) for batch in source.read(partition, 10))

    with ThreadPoolExecutor(len(parts)) as pool:
        assert sum(pool.map(read, parts)) == len(ROWS)


def test_a_reader_that_stops_early_holds_nothing(make_source: MakeSource) -> None:
    source = make_source(ROWS)
    batches = source.read(source.partitions("people", 1)[0], 10)
    next(batches)
    close = getattr(batches, "close", None)
    if close:
        close()
    assert records(source, "people") == expected(ROWS)


def test_closing_twice_is_harmless(make_source: MakeSource) -> None:
    source = make_source(ROWS)
    records(source, "people")
    source.close()
    source.close()
