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


@pytest.mark.parametrize("text", [b"a,b\n1,2\n3\n", b"a,b\n1,2\n3,4,secret\n", b"a,b\n1,2\n1,secret\xff\n"])
def test_a_csv_record_that_does_not_fit_its_header_is_corrupt(tmp_path: Path, text: bytes) -> None:
    put(tmp_path, "a.csv", text)
    with pytest.raises(CorruptError, match=r"a\.csv") as raised:
        rows(source(tmp_path), "a", "a")
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


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
