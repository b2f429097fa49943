"""Files of a folder arrive exactly: digits, nulls and nested text; what is not whole is refused first."""

import datetime as dt
import decimal
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from resettle.batch import ARROW, Kind
from resettle.connectors.files import Files, FilesSettings
from resettle.errors import ConfigError, CorruptError


def put(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def source(folder: Path, **settings: Any) -> Files:
    return Files("drop", FilesSettings(path=folder, **settings))


def rows(files: Files, dataset: str, *names: str, wanted: int = 1, batch: int = 50) -> list[Any]:
    """Each record as a tuple of the named columns, and its trouble if any record has some."""
    found: list[Any] = []
    for partition in files.partitions(dataset, wanted):
        for read in files.read(partition, batch):
            assert len(read) <= batch
            found += [tuple(row.values()) for row in read.decode(read.table, names).to_pylist()]
    return found


def refused(files: Files, dataset: str) -> str:
    """What is said of a corrupt file, before any record is given."""
    with pytest.raises(CorruptError) as raised:
        files.partitions(dataset, 1)
    assert "secret" not in str(raised.value)
    return str(raised.value)


# -- which datasets there are ---


def test_a_file_is_a_dataset_and_a_folder_of_parts_is_one(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.c.csv.gz", "parts/1.jsonl", "parts/2.jsonl.gz", "x/y/1.csv"):
        put(tmp_path, name, "a,b\n")
    for name in (".hidden.csv", "_started", "_tmp/x.csv", "README.md"):
        put(tmp_path, name, "")
    assert source(tmp_path).datasets() == ["a", "b.c", "parts", "x/y"]


def test_an_unknown_dataset_and_a_missing_folder_are_configuration_errors(tmp_path: Path) -> None:
    put(tmp_path, "people.csv", "a\n1\n")
    with pytest.raises(ConfigError, match='no dataset "peple"') as raised:
        source(tmp_path).schema("peple")
    assert raised.value.hint == 'did you mean "people"?'
    with pytest.raises(ConfigError, match="no folder"):
        source(tmp_path / "no")


@pytest.mark.parametrize("names", [("a.csv", "a.jsonl"), ("a.csv", "a/1.csv"), ("a.csv", "a.csv.gz")])
def test_two_datasets_of_one_name_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        put(tmp_path, name, "")
    with pytest.raises(ConfigError, match='called "a"'):
        source(tmp_path).datasets()


def test_parts_of_different_formats_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a/1.csv", "")
    put(tmp_path, "a/2.jsonl", "")
    with pytest.raises(ConfigError, match="different formats: csv and json"):
        source(tmp_path).partitions("a", 1)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "secret.csv", "a\n1\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(ConfigError, match="link to a file outside"):
        source(tmp_path / "in").datasets()


def test_parts_are_shared_out_and_read_once(tmp_path: Path) -> None:
    for part in range(5):
        put(tmp_path, f"p/{part}.jsonl", "".join(f'{{"n":{part * 10 + n}}}\n' for n in range(part + 1)))
    files = source(tmp_path)
    assert [len(files.partitions("p", wanted)) for wanted in (1, 2, 9)] == [1, 2, 5]
    expected = sorted((str(part * 10 + n),) for part in range(5) for n in range(part + 1))
    for wanted in (1, 2, 9):
        assert sorted(rows(files, "p", "n", wanted=wanted, batch=2)) == expected


# -- JSON ---

DIGITS = "1.50000000000000000000000000000000000001"
RECORD = (
    '{"s":"\\ud83d\\ude00 \\u0000 \\"","n":%s,"i":123456789012345678901234567890,"e":1E5,"t":true,'
    '"f":false,"z":null,"o":{"b": %s, "a":[ 1.0,null]},"l":[],"empty":""}'
).replace("%s", DIGITS)
NAMES = ("s", "n", "i", "e", "t", "f", "z", "o", "l", "empty", "absent")
EXACT = (
    '😀 \0 "', DIGITS, "123456789012345678901234567890", "1E5", "true", "false", None,
    '{"b": %s, "a":[ 1.0,null]}'.replace("%s", DIGITS), "[]", "", None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", RECORD + "\n"),
        ("a.ndjson.gz", RECORD),
        ("a.json", RECORD + "\r\n\r\n"),
        ("a.json", f" [ {RECORD} ] "),
        ("a.json.gz", f"[{RECORD}]"),
    ],
)
def test_json_values_arrive_exactly_from_lines_and_from_an_array(tmp_path: Path, name: str, text: str) -> None:
    put(tmp_path, name, text)
    assert rows(source(tmp_path), "a", *NAMES) == [EXACT]


def test_an_array_as_the_old_export_scripts_indent_it_arrives(tmp_path: Path) -> None:
    put(tmp_path, "a.json", json.dumps([{"id": n, "in": {"x": n}} for n in range(120)], indent=2))
    found = rows(source(tmp_path), "a", "id", "in")
    assert [row[0] for row in found] == [str(n) for n in range(120)]
    assert json.loads(found[7][1]) == {"x": 7}


def test_a_record_that_is_no_object_is_trouble_of_its_own(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", '{"x":1}\n{"x":"sec\n[]\n{"x":2}\n')
    found = rows(source(tmp_path), "a", "x")
    assert found == [("1", None), (None, "not valid JSON"), (None, "not a JSON object"), ("2", None)]


def test_the_columns_of_json_are_a_sample(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jsonl", '{"n":1.5,"o":{},"m":1,"z":null}\n{"n":2,"m":"x","b":true}\nbroken\n')
    put(tmp_path, "a/2.jsonl", '{"later":1}\n')
    schema = source(tmp_path).schema("a")
    assert {column.name: column.kind for column in schema.columns} == {
        "n": Kind.NUMERIC, "o": Kind.JSON, "m": Kind.TEXT, "z": Kind.TEXT, "b": Kind.TEXT,
        "later": Kind.NUMERIC,
    }  # fmt: skip
    assert schema.open


def test_files_that_break_off_are_refused_before_any_record(tmp_path: Path) -> None:
    put(tmp_path, "half.jsonl", '{"x":1}\n{"x":"secret')
    put(tmp_path, "array.json", '[{"x":1},{"x":"secret')
    whole = put(tmp_path, "gz.jsonl.gz", '{"x":1}\n' * 1000).read_bytes()
    (tmp_path / "gz.jsonl.gz").write_bytes(whole[:-5])
    (tmp_path / "crc.jsonl.gz").write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])
    files = source(tmp_path)
    assert "half.jsonl line 2: the file ends in the middle of a record" in refused(files, "half")
    assert "array.json is not whole JSON" in refused(files, "array")
    assert "gz.jsonl.gz is not a whole gzip file" in refused(files, "gz")
    assert "crc.jsonl.gz is not a whole gzip file" in refused(files, "crc")


def test_without_isal_gzip_files_are_read_and_checked_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resettle.connectors._lines._gunzip", gzip.open)
    whole = put(tmp_path, "a.jsonl.gz", '{"x":1}\n' * 1000).read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(whole[:-5])
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip")
    files = source(tmp_path)
    assert len(rows(files, "a", "x")) == 1000
    assert "not a whole gzip file" in refused(files, "b")
    assert "not a whole gzip file" in refused(files, "c")


MARK = "\ufeff"
DEEP = '{"x":%s1%s}' % ("[" * 5000, "]" * 5000)  # noqa: UP031


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"x":"first"}\n{"x":"2"}\n'),
        ("a.jsonl.gz", '{"x":"first"}\n{"x":"2"}'),
        ("a.json", '{"x":"first"}\n{"x":"2"}\n'),
        ("a.json", '[{"x":"first"},{"x":"2"}]'),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path: Path, name: str, text: str) -> None:
    put(tmp_path, name, MARK + text)
    assert rows(source(tmp_path), "a", "x") == [("first",), ("2",)]
    assert source(tmp_path).schema("a").names == ("x",)


def test_a_record_nested_beyond_any_stack_is_trouble_of_its_own(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", '{"x":1}\n' + DEEP + '\n{"x":2}\n')
    put(tmp_path, "last.jsonl", '{"x":1}\n' + DEEP)
    files = source(tmp_path)
    assert files.schema("a").names == ("x",)
    assert rows(files, "a", "x") == [("1", None), (None, "nested too deeply"), ("2", None)]
    assert rows(files, "last", "x") == [("1", None), (None, "nested too deeply")]


def test_an_array_nested_beyond_any_stack_is_refused_by_its_name(tmp_path: Path) -> None:
    put(tmp_path, "a.json", f"[{DEEP}]")
    assert "a.json is nested too deeply to be read as a whole" in refused(source(tmp_path), "a")
    with pytest.raises(CorruptError, match="nested too deeply") as raised:
        source(tmp_path).schema("a")
    assert "JSON lines" in (raised.value.hint or "")


# -- DynamoDB JSON ---

ITEMS = [{"id": {"S": "1"}, "n": {"N": DIGITS}}, {"id": {"S": "2"}, "n": {"L": [{"N": DIGITS}]}}]
LINES = "\n".join(map(json.dumps, ITEMS))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"Items": ITEMS, "Count": 2, "ScannedCount": 2, "ConsumedCapacity": None}, indent=4),
        json.dumps({"Count": 2, "Items": ITEMS}),
        json.dumps(ITEMS),
        LINES,
        "\n".join(json.dumps({"Item": item}) for item in ITEMS),
    ],
    ids=["scan", "count first", "array", "bare lines", "lines of an export"],
)
def test_every_form_of_dump_gives_the_same_items(tmp_path: Path, text: str) -> None:
    put(tmp_path, "a.json", text)
    files = source(tmp_path, format="dynamodb_json")
    assert rows(files, "a", "id", "n") == [("1", DIGITS), ("2", f"[{DIGITS}]")]
    assert [(column.name, column.native) for column in files.schema("a").columns] == [
        ("id", "S"),
        ("n", "L|N"),
    ]


@pytest.mark.parametrize("text", [json.dumps({"Items": ITEMS, "Count": 2}), json.dumps(ITEMS), LINES])
def test_a_dump_may_begin_with_a_byte_order_mark(tmp_path: Path, text: str) -> None:
    put(tmp_path, "a.json", MARK + text)
    assert [row[0] for row in rows(source(tmp_path, format="dynamodb_json"), "a", "id")] == ["1", "2"]


def test_an_item_nested_beyond_any_stack_is_trouble_of_its_own(tmp_path: Path) -> None:
    deep = '{"id":{"S":"d"},"x":%s{"S":"x"}%s}' % ('{"L":[' * 5000, "]}" * 5000)  # noqa: UP031
    put(tmp_path, "a.jsonl", f"{LINES}\n{deep}\n")
    put(tmp_path, "whole.json", f'{{"Items":[{deep}],"Count":1}}')
    files = source(tmp_path, format="dynamodb_json")
    assert files.schema("a").names == ("id", "n")
    assert rows(files, "a", "id", "x") == [("1", None, None), ("2", None, None), ("d", None, "not valid JSON")]
    assert rows(files, "a", "id") == [("1",), ("2",), ("d",)]
    assert "whole.json is nested too deeply" in refused(files, "whole")


def test_a_bare_item_whose_first_attribute_is_named_item_is_not_mistaken(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", '{"Item":{"S":"x"},"id":{"S":"1"}}\n{"Item":{"S":"y"}}\n')
    assert rows(source(tmp_path, format="dynamodb_json"), "a", "Item", "id") == [("x", "1"), ("y", None)]


@pytest.mark.parametrize("more", [{"NextToken": "t"}, {"LastEvaluatedKey": {"id": {"S": "secret"}}}, {"Count": 3}])
def test_a_part_of_a_scan_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    put(tmp_path, "a.json", json.dumps({"Items": ITEMS} | more))
    assert "a.json is a part of a scan" in refused(source(tmp_path, format="dynamodb_json"), "a")


# -- CSV ---


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_is_text_and_tells_null_from_empty(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, '\ufeffid,text,n\r\n1,,007\r\n2,"",1.50\r\n3,"a ""b"",\r\nc",NULL\r\n')
    files = source(tmp_path)
    assert rows(files, "a", "id", "text", "n", batch=2) == [
        ("1", None, "007"), ("2", "", "1.50"), ("3", 'a "b",\r\nc', "NULL"),
    ]  # fmt: skip
    assert rows(files, "a", "n", "absent") == [("007", None), ("1.50", None), ("NULL", None)]
    assert (files.schema("a").names, files.schema("a").open) == (("id", "text", "n"), False)


@pytest.mark.parametrize("text", ["a,b", "a,b\n"])
def test_a_csv_of_a_header_only_has_no_records(tmp_path: Path, text: str) -> None:
    put(tmp_path, "a.csv", text)
    assert rows(source(tmp_path), "a", "a") == []


@pytest.mark.parametrize("text", ["", "a,a\n1,2\n"])
def test_a_csv_without_a_usable_header_is_a_configuration_error(tmp_path: Path, text: str) -> None:
    put(tmp_path, "a.csv", text)
    with pytest.raises(ConfigError, match=r"a\.csv"):
        source(tmp_path).partitions("a", 1)


def test_a_csv_that_breaks_off_within_quotes_is_refused_before_any_record(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", 'a,b\n1,2\n3,"secret\n')
    put(tmp_path, "inch.csv", 'a,b\n1,5" pipe\n')
    assert "a.csv has a quote that is not closed" in refused(source(tmp_path), "a")
    assert rows(source(tmp_path), "inch", "b") == [('5" pipe',)]


def test_a_csv_column_without_a_name_is_named_by_its_place(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", 'a,,"c\nd",\n1,2,3,\n')
    files = source(tmp_path)
    assert files.schema("a").names == ("a", "column_2", "c\nd", "column_4")
    assert rows(files, "a", "column_4", "column_2", "c\nd") == [(None, "2", "3")]
    put(tmp_path, "b.csv", "column_2,\n1,2\n")
    with pytest.raises(ConfigError, match="names a column twice"):
        source(tmp_path).schema("b")


@pytest.mark.parametrize("size", [131_073, 20 << 20])
def test_a_csv_value_may_be_long(tmp_path: Path, size: int) -> None:
    put(tmp_path, "a.csv", f'a,b\n1,{"x" * size}\n2,"{"y" * size}\n"')
    put(tmp_path, "odd.csv", f'a,b\n1,5" {"x" * size}\n2,y')
    files = source(tmp_path)
    assert [(key, len(text)) for key, text in rows(files, "a", "a", "b")] == [("1", size), ("2", size + 1)]
    assert [len(text) for (text,) in rows(files, "odd", "b")] == [size + 3, 1]


def test_a_csv_record_beyond_what_is_read_at_once_is_refused_by_its_size(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "a,b\n1,2\n" + f"1,{'secret' * (12 << 20)}\n")
    with pytest.raises(CorruptError, match=r"a\.csv has a record larger than 32 MiB") as raised:
        rows(source(tmp_path), "a", "a")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_a_csv_record_that_does_not_fit_its_header_is_trouble_of_its_own(tmp_path: Path, batch: int) -> None:
    put(tmp_path, "a.csv", 'a,b\n1,"2\n"\n\nsecret\n3,4\n5,6,secret\n7,secret,9,10\n11,12\n')
    found = rows(source(tmp_path), "a", "a", "b", batch=batch)
    assert found[:3] == [("1", "2\n"), ("3", "4"), ("11", "12")]
    assert found[3:] == [
        (None, None, "a.csv row 3 has too few values: 1 for the 2 columns of its header"),
        (None, None, "a.csv row 5 has too many values: 3 for the 2 columns of its header"),
        (None, None, "a.csv row 6 has too many values: 4 for the 2 columns of its header"),
    ]
    put(tmp_path, "a.csv", "a,b\n1,2,3\n")
    assert len(rows(source(tmp_path), "a", "a")) == 1


def test_a_csv_record_in_trouble_is_the_same_record_in_another_row(tmp_path: Path) -> None:
    """What was decided about it (held, waived) outlives another export with more records before it."""
    (tmp_path / "a").mkdir()
    for part, before in enumerate(["", "1,2\n3,4\n"]):
        put(tmp_path, f"a/{part}.csv", f"a,b\n{before}5,6,7\n")
    files = source(tmp_path)
    (partition,) = files.partitions("a", 1)
    first, *_, second = files.read(partition, 50)
    assert first.table == second.table
    both = pa.concat_tables([first.table, second.table])
    assert second.decode(both, ["a"]).to_pylist() == [
        {"a": None, "_trouble": "0.csv row 2 has too many values: 3 for the 2 columns of its header"}
    ] * 2  # fmt: skip
    assert len(second.decode(both.slice(0, 0), ["a"])) == 0


def test_of_very_many_csv_records_in_trouble_some_have_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resettle.connectors._files_csv.MOST_SAID", 1)
    put(tmp_path, "a.csv", "a,b\n1\n2\n")
    (_, first), (_, second) = rows(source(tmp_path), "a", "a")
    assert ("row 2" in first, second) == (True, "has too few or too many values")


@pytest.mark.parametrize("end", ["3", '3,4\n"5', '"5\n5"', '3,"4,4"\n"5,6"'])
@pytest.mark.parametrize("feed", ["\n", "\r\n"])
def test_a_csv_that_breaks_off_within_a_record_is_refused_before_any_record(
    tmp_path: Path, end: str, feed: str
) -> None:
    put(tmp_path, "a.csv", f"a,b\n1,2\n{end}".replace("\n", feed))
    said = refused(source(tmp_path), "a")
    assert "ends in the middle of a record" in said or "a quote that is not closed" in said


@pytest.mark.parametrize("end", ["3,4", '3,"4\n4"', '3,"4\n4, 5"', "3,", "3,4\n  "])
def test_a_csv_needs_no_line_feed_at_its_end(tmp_path: Path, end: str) -> None:
    put(tmp_path, "a.csv", f"a,b\n1,2\n{end}")
    assert [row[0] for row in rows(source(tmp_path), "a", "a")][:2] == ["1", "3"]


def test_a_csv_that_is_not_utf_8_is_corrupt(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", b"a,b\n1,2\n1,secret\xff\n")
    with pytest.raises(CorruptError, match=r"a\.csv is not UTF-8") as raised:
        rows(source(tmp_path), "a", "a")
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_blank_line_of_a_csv_is_no_record_and_quotes_are(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", 'a\n1\n\n""\n2\n\n')
    assert rows(source(tmp_path), "a", "a") == [("1",), ("",), ("2",)]


# -- Parquet ---


def parquet(folder: Path, name: str, **columns: pa.Array) -> None:
    pa.parquet.write_table(pa.table(columns), folder / name)


def test_parquet_columns_travel_as_their_kind_does(tmp_path: Path) -> None:
    at = dt.datetime(2025, 12, 26, 12, 0, 0, 123000)
    parquet(
        tmp_path,
        "a.parquet",
        small=pa.array([1, None], pa.int8()),
        big=pa.array([2**64 - 1, None], pa.uint64()),
        exact=pa.array([decimal.Decimal("1.5000000000000000000001"), None], pa.decimal128(38, 22)),
        at=pa.array([at, None], pa.timestamp("ms", tz="Africa/Douala")),
        nano=pa.array([1, None], pa.timestamp("ns")),
        text=pa.array(["😀", ""], pa.large_string()),
        choice=pa.array(["x", None]).dictionary_encode(),
        nested=pa.array([{"n": [decimal.Decimal("1.50")], "b": b"\xff"}, None]),
        raw=pa.array([b"\0", None]),
    )
    files = source(tmp_path)
    schema = files.schema("a")
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {
        "small": Kind.INT16, "big": Kind.NUMERIC, "exact": Kind.NUMERIC, "at": Kind.INSTANT,
        "nano": Kind.OTHER,
        "text": Kind.TEXT, "choice": Kind.TEXT, "nested": Kind.JSON, "raw": Kind.BINARY,
    }  # fmt: skip
    ((batch,),) = [list(files.read(part, 50)) for part in files.partitions("a", 1)]
    decoded = batch.decode(batch.table, schema.names)
    assert decoded.schema.types == [ARROW[kind] for kind in kinds.values()]
    first, second = decoded.to_pylist()
    assert (first["big"], first["exact"]) == (str(2**64 - 1), "1.5000000000000000000001")
    assert first["at"] == at.replace(tzinfo=dt.UTC)
    assert first["nano"].endswith(".000000001")
    assert first["nested"] == '{"b":"/w==","n":[1.50]}' or first["nested"] == '{"n":[1.50],"b":"/w=="}'
    assert second == dict.fromkeys(kinds) | {"text": ""}


STRANGE = {
    "nan": pa.array([[1.5], [float("nan")], None]),
    "infinity": pa.array([{"x": [1.5]}, {"x": [-float("inf")]}, {"x": None}]),
    "keyed": pa.array([[("k", 1.5)], [("k", float("inf"))], []], pa.map_(pa.string(), pa.float32())),
    "fixed": pa.array([[1.5, 2], [0, float("nan")], None], pa.list_(pa.float64(), 2)),
    "nanoseconds": pa.array([[1000], [1001], []], pa.list_(pa.timestamp("ns"))),
    "time": pa.array([[1000], [1001], []], pa.list_(pa.time64("ns"))),
    "duration": pa.array([[], [1], []], pa.list_(pa.duration("us"))),
    "year": pa.array([[0], [2**60], []], pa.list_(pa.timestamp("us"))),
    "twice": pa.StructArray.from_arrays([[1, 1, 2]] * 2, ["a", "a"], mask=pa.array([True, False, True])),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_nested_value_that_json_has_no_word_for_is_trouble_of_its_record(tmp_path: Path, name: str) -> None:
    parquet(tmp_path, "a.parquet", id=pa.array([1, 2, 3]), x=STRANGE[name])
    sound, strange, other = rows(source(tmp_path), "a", "id", "x")
    assert (sound[0], strange[:2], other[0]) == (1, (2, None), 3)
    assert sound[2] is other[2] is None
    assert strange[2] == 'column "x": a nested value that JSON cannot hold exactly, such as NaN or nanoseconds'
    assert "null" not in (sound[1] or "")
    assert rows(source(tmp_path), "a", "id") == [(1,), (2,), (3,)], "nobody asked for the column"


def test_sound_floats_beside_strange_ones_stay_exact(tmp_path: Path) -> None:
    nan = float("nan")
    column = pa.array([[0.1, None, 1.25], [nan], [2.5], None])
    parquet(tmp_path, "a.parquet", x=column, y=pa.array([[nan], [], [1.0], [nan]]))
    found = rows(source(tmp_path), "a", "x", "y")
    assert [row[:2] for row in found] == [("[0.1,null,1.25]", None), (None, "[]"), ("[2.5]", "[1.0]"), (None, None)]
    assert [row[2] is None for row in found] == [False, False, True, False]


def test_top_level_nan_and_infinity_travel_as_they_are(tmp_path: Path) -> None:
    parquet(tmp_path, "a.parquet", x=pa.array([float("inf"), float("nan")]))
    (first,), (second,) = rows(source(tmp_path), "a", "x")
    assert (first, str(second)) == (float("inf"), "nan")


def test_a_parquet_timestamp_beyond_microseconds_is_refused_by_its_column(tmp_path: Path) -> None:
    parquet(tmp_path, "a.parquet", at=pa.array([2**60], pa.timestamp("ms")))
    with pytest.raises(CorruptError, match=r'a\.parquet: column "at" holds a value that timestamp\[us\] does not'):
        rows(source(tmp_path), "a", "at")


def test_a_parquet_file_that_names_a_column_twice_is_a_configuration_error(tmp_path: Path) -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet names a column twice"):
        source(tmp_path).partitions("a", 1)


def test_parquet_knows_its_count_and_reads_in_batches(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    parquet(tmp_path / "a", "1.parquet", n=pa.array(range(7)))
    parquet(tmp_path / "a", "2.parquet", n=pa.array(range(7, 9)))
    files = source(tmp_path)
    assert files.count("a") == 9
    assert rows(files, "a", "n", batch=4) == [(n,) for n in range(9)]


def test_a_broken_parquet_file_is_refused_before_any_record(tmp_path: Path) -> None:
    parquet(tmp_path, "a.parquet", n=pa.array(range(1000)))
    path = tmp_path / "a.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert "a.parquet is not a whole Parquet file" in refused(source(tmp_path), "a")
