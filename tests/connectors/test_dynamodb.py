"""DynamoDB is read to its end marker, exactly; an export is refused unless it is what its manifest says."""

import base64
import gzip
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from resettle.batch import Kind, Schema
from resettle.calls import Caller
from resettle.connector import Source
from resettle.connectors.dynamodb import ERRORS, THROTTLES, DynamoDB, DynamoDBSettings, errors
from resettle.errors import AccessError, ConfigError, ConnectorError, CorruptError, TransientError
from resettle.sandbox.dynamodb import LocalDynamoDB, start_dynamodb

Item = Mapping[str, Mapping[str, Any]]

DIGITS = "1.2345678901234567890123456789012345678"
EVERY_TYPE: Item = {
    "id": {"S": "a"},
    "number": {"N": DIGITS},
    "yes": {"BOOL": True},
    "nothing": {"NULL": True},
    "bytes": {"B": b"\0\xff"},
    "map": {"M": {"z": {"N": DIGITS}, "a": {"L": [{"M": {"deep": {"NULL": True}}}, {"S": "😀"}]}}},
    "words": {"SS": ["b", "a"]},
    "numbers": {"NS": ["10", "9"]},
    "blobs": {"BS": [b"\xff"]},
    "text": {"S": '😀 "\\ \n'},
    "empty": {"S": ""},
}
TEXTS = {
    "id": "a",
    "number": DIGITS,
    "yes": "true",
    "nothing": None,
    "bytes": "AP8=",
    "map": '{"a":[{"deep":null},"😀"],"z":%s}'.replace("%s", DIGITS),
    "words": '["a","b"]',
    "numbers": "[9,10]",
    "blobs": '["/w=="]',
    "text": '😀 "\\ \n',
    "empty": "",
    "absent": None,
}


def numbered(count: int, size: int = 0) -> list[Item]:
    return [{"id": {"S": f"{n:05}"}, "pad": {"S": "x" * size}} for n in range(count)]


def rows(
    source: Source, dataset: str, names: Sequence[str], *, wanted: int = 1, batch: int = 50
) -> list[dict[str, Any]]:
    found = []
    for partition in source.partitions(dataset, wanted):
        for read in source.read(partition, batch):
            assert read.dataset == dataset
            assert len(read) <= batch
            found += read.decode(read.table, names).to_pylist()
    return found


# -- the live service ---


@pytest.fixture(scope="module")
def service() -> Iterator[LocalDynamoDB]:
    with start_dynamodb() as local:
        local.load("types", ["id"], [EVERY_TYPE])
        local.load("many", ["id"], numbered(1000, 3000))
        local.load("audit", ["pk", "at"], [{"pk": {"S": "p"}, "at": {"N": "2"}, "b": {"S": "x"}, "a": {"L": []}}])
        local.load("none", ["id"], [])
        yield local


def live(service: LocalDynamoDB, caller: Caller | None = None, **settings: Any) -> DynamoDB:
    return DynamoDB("dynamo", DynamoDBSettings(**access(service), **settings), caller=caller)


def access(service: LocalDynamoDB) -> dict[str, Any]:
    keys = {"access_key_id": "sandbox", "secret_access_key": "sandbox"}
    return {"region": service.region, "endpoint_url": service.endpoint_url, **keys}


def test_every_type_arrives_exactly(service: LocalDynamoDB) -> None:
    assert rows(live(service), "types", list(TEXTS)) == [TEXTS]


@pytest.mark.parametrize("wanted", [1, 4])
@pytest.mark.parametrize("consistent", [False, True])
def test_all_pages_of_all_segments_are_read_once(service: LocalDynamoDB, wanted: int, consistent: bool) -> None:
    caller = Caller(errors)
    source = live(service, caller, consistent=consistent)
    found = rows(source, "many", ["id"], wanted=wanted, batch=70)
    assert sorted(row["id"] for row in found) == [f"{n:05}" for n in range(1000)]
    assert caller.counts["capacity units"] > 0


def test_segments_can_be_read_from_several_threads(service: LocalDynamoDB) -> None:
    source = live(service, segments=3)
    parts = source.partitions("many", 1)
    with ThreadPoolExecutor(3) as pool:
        sizes = list(pool.map(lambda part: sum(map(len, source.read(part, 100))), parts))
    assert (len(parts), sum(sizes)) == (3, 1000)


def test_an_empty_table_has_no_records(service: LocalDynamoDB) -> None:
    assert rows(live(service), "none", ["id"], wanted=3) == []


def test_a_schema_has_the_key_first_and_what_a_sample_holds(service: LocalDynamoDB) -> None:
    schema = live(service).schema("audit")
    assert schema.key == ("pk", "at")
    assert schema.names == ("pk", "at", "a", "b")
    assert [column.kind for column in schema.columns] == [Kind.TEXT, Kind.NUMERIC, Kind.JSON, Kind.TEXT]
    assert [column.nullable for column in schema.columns] == [False, False, True, True]
    assert (schema.open, schema.privileges) == (True, {"select"})


def test_a_live_count_is_unknown(service: LocalDynamoDB) -> None:
    assert live(service).count("many") is None


def test_all_tables_are_listed_sorted(service: LocalDynamoDB) -> None:
    with_pages = [f"t{n:03}" for n in range(120)]  # a page of ListTables holds 100
    for name in with_pages:
        service.load(name, ["id"], [])
    assert live(service).datasets() == sorted([*with_pages, "audit", "many", "none", "types"])


@pytest.mark.parametrize("ask", [DynamoDB.schema, DynamoDB.count, lambda source, name: source.partitions(name, 1)])
def test_an_unknown_table_is_a_configuration_error_with_a_suggestion(
    service: LocalDynamoDB, ask: Callable[[DynamoDB, str], Schema]
) -> None:
    with pytest.raises(ConfigError, match='no table "mny"') as raised:
        ask(live(service), "mny")
    assert raised.value.hint == 'did you mean "many"?'


def test_an_endpoint_that_does_not_answer_is_tried_again_and_then_transient() -> None:
    settings = DynamoDBSettings(
        region="us-east-1", endpoint_url="http://127.0.0.1:9", access_key_id="x", secret_access_key="y"
    )
    caller = Caller(errors, attempts=3, sleep=lambda _: None)
    with pytest.raises(TransientError, match="EndpointConnectionError"):
        DynamoDB("dynamo", settings, caller=caller).datasets()
    assert caller.counts["calls"] == 3


def test_settings_that_boto3_refuses_are_configuration_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    for settings in (
        {"region": "us-east-1", "profile": "nobody"},
        {"region": "us-east-1", "endpoint_url": "nowhere"},
    ):
        with pytest.raises(ConfigError, match="dynamo: "):
            DynamoDB("dynamo", DynamoDBSettings(**settings))


def test_a_missing_boto3_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError) as raised:
        DynamoDB("dynamo", DynamoDBSettings())
    assert "resettle[dynamodb]" in (raised.value.hint or "")


def test_secrets_are_not_shown() -> None:
    assert "hush" not in repr(DynamoDBSettings(access_key_id="hush", secret_access_key="hush", session_token="hush"))


# -- what moto cannot do: throttling, empty pages, refusals ---


class Scripted:
    """A client that answers scans as written: pages, or errors."""

    exceptions = type("Exceptions", (), {"ResourceNotFoundException": KeyError})

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def describe_table(self, **_: Any) -> Any:
        return {"Table": {"TableName": "t"}}

    def scan(self, **options: Any) -> Any:
        self.asked.append(options)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def refusal(code: str, status: int = 400, message: str = "with a secret") -> botocore.exceptions.ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return botocore.exceptions.ClientError(response, "Scan")


def page(*ids: str, more: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {"Items": [{"id": {"S": name}} for name in ids]}
    return found | ({"LastEvaluatedKey": {"id": {"S": "k"}}} if more else {})


def scripted(*answers: Any) -> tuple[DynamoDB, Scripted, Caller]:
    client = Scripted(*answers)
    caller = Caller(errors, sleep=lambda _: None, rng=random.Random(1))
    return DynamoDB("dynamo", DynamoDBSettings(), caller=caller, client=client), client, caller


def test_an_empty_page_is_not_the_end() -> None:
    source, client, _ = scripted(page(), page("a"), page(), page(), page("b"), page(more=False))
    assert rows(source, "t", ["id"]) == [{"id": "a"}, {"id": "b"}]
    assert len(client.asked) == 6
    assert all(asked["ExclusiveStartKey"] == {"id": {"S": "k"}} for asked in client.asked[1:])


@pytest.mark.parametrize("code", sorted(THROTTLES))
def test_throttling_slows_down_and_goes_on_from_the_same_page(code: str) -> None:
    source, client, caller = scripted(page("a"), refusal(code), refusal(code), page("b", more=False))
    assert rows(source, "t", ["id"]) == [{"id": "a"}, {"id": "b"}]
    assert (caller.counts["throttled"], caller.counts["calls"]) == (2, 5)
    assert client.asked[1] == client.asked[2] == client.asked[3]


@pytest.mark.parametrize(
    "error",
    [
        refusal("InternalServerError", 500),
        refusal("Unheard", 503),
        botocore.exceptions.ReadTimeoutError(endpoint_url="x"),
    ],
)
def test_a_fault_of_the_service_is_tried_again(error: Exception) -> None:
    source, _, caller = scripted(error, page("a", more=False))
    assert rows(source, "t", ["id"]) == [{"id": "a"}]
    assert caller.counts["retries"] == 1


@pytest.mark.parametrize(
    "error",
    [
        refusal("AccessDeniedException"),
        refusal("ExpiredTokenException"),
        refusal("UnrecognizedClientException"),
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.PartialCredentialsError(provider="env", cred_var="x"),
        botocore.exceptions.UnauthorizedSSOTokenError(),
    ],
)
def test_access_refused_stops_at_once_and_says_what_is_needed(error: Exception) -> None:
    source, _, caller = scripted(error)
    with pytest.raises(AccessError) as raised:
        rows(source, "t", ["id"])
    assert caller.counts["retries"] == 0
    assert "dynamodb:Scan" in (raised.value.hint or "")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("code", ["KMSAccessDeniedException", "KMS.DisabledException", "KMSInvalidStateException"])
def test_a_key_that_may_not_be_used_is_access_refused(code: str) -> None:
    source, _, caller = scripted(page("a"), refusal(code))
    with pytest.raises(AccessError, match=code) as raised:
        rows(source, "t", ["id"])
    assert "kms:Decrypt" in (raised.value.hint or "")
    assert caller.counts["retries"] == 0


def test_a_conflict_between_replicas_is_tried_again() -> None:
    source, _, caller = scripted(page("a"), refusal("ReplicatedWriteConflictException"), page("b", more=False))
    assert rows(source, "t", ["id"]) == [{"id": "a"}, {"id": "b"}]
    assert caller.counts["retries"] == 1


@pytest.mark.parametrize(("code", "hint"), [("ValidationException", "`segments`"), ("InvalidObjectState", "restore")])
def test_a_request_that_can_never_be_answered_ends_the_read_and_says_what_to_do(code: str, hint: str) -> None:
    source, _, caller = scripted(page("a"), refusal(code))
    with pytest.raises(ConnectorError, match=f"{code} from Scan") as raised:
        rows(source, "t", ["id"])
    assert hint in (raised.value.hint or "")
    assert "secret" not in str(raised.value)
    assert caller.counts["retries"] == 0


def test_a_table_that_is_gone_in_the_middle_of_a_scan_is_named(service: LocalDynamoDB) -> None:
    service.load("short-lived", ["id"], numbered(10))
    source = live(service)
    (part,) = source.partitions("short-lived", 1)
    batches = source.read(part, 3)
    assert len(next(batches)) == 3
    service.client("dynamodb").delete_table(TableName="short-lived")
    with pytest.raises(ConnectorError, match='dynamo: the table "short-lived" was deleted') as raised:
        list(batches)
    assert "run again" in (raised.value.hint or "")


def test_an_unknown_error_is_neither_translated_nor_tried_again() -> None:
    source, _, caller = scripted(refusal("UnheardOfException"))
    with pytest.raises(botocore.exceptions.ClientError):
        rows(source, "t", ["id"])
    assert caller.counts["retries"] == 0


def test_every_error_the_service_declares_is_in_a_table_or_knowingly_left_out() -> None:
    import boto3

    model = boto3.client("dynamodb", region_name="us-east-1").meta.service_model
    declared = {
        shape.metadata.get("error", {}).get("code", shape.name)
        for operation in ("ListTables", "DescribeTable", "Scan")
        for shape in model.operation_model(operation).error_shapes
    }
    # A missing table becomes a ConfigError where it is described; endpoint discovery is boto3's own affair.
    assert declared - {"ResourceNotFoundException", "InvalidEndpointException"} <= ERRORS.keys() | THROTTLES


# -- exports ---

WHEN = "2026-01-01T00:00:00.000Z"


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def export(
    root: Path,
    table: str,
    *parts: Sequence[Item],
    export_id: str = "0001-a",
    when: str = WHEN,
    **summary: Any,
) -> Path:
    """What DynamoDB's export to S3 writes, as its documentation has it; gives the export's folder."""
    folder = root / "AWSDynamoDB" / export_id
    (folder / "data").mkdir(parents=True)
    (root / "AWSDynamoDB" / "_started").touch()
    listing = []
    for number, items in enumerate(parts):
        text = "".join(
            json.dumps({"Item": item}, default=lambda data: base64.b64encode(data).decode()) + "\n" for item in items
        )
        packed = gzip.compress(text.encode())
        (folder / "data" / f"part{number}.json.gz").write_bytes(packed)
        key = f"elsewhere/AWSDynamoDB/{export_id}/data/part{number}.json.gz"
        listing.append({"itemCount": len(items), "md5Checksum": md5(packed), "etag": "x-1", "dataFileS3Key": key})
    manifest(folder / "manifest-files.json", "".join(json.dumps(entry) + "\n" for entry in listing))
    told = {
        "version": "2020-06-30",
        "tableArn": f"arn:aws:dynamodb:us-east-1:123456789012:table/{table}",
        "startTime": when,
        "exportTime": when,
        "s3Bucket": "elsewhere",
        "manifestFilesS3Key": f"elsewhere/AWSDynamoDB/{export_id}/manifest-files.json",
        "itemCount": sum(map(len, parts)),
        "outputFormat": "DYNAMODB_JSON",
        "exportType": "FULL_EXPORT",
    } | summary
    manifest(folder / "manifest-summary.json", json.dumps({k: v for k, v in told.items() if v is not None}))
    return folder


def manifest(path: Path, text: str) -> None:
    path.write_text(text)
    path.with_suffix(".checksum").write_text(md5(text.encode()))


def repack(folder: Path, packed: bytes, *, items: int | None = None) -> None:
    """Replace the first data file, and let the manifests say so."""
    (folder / "data" / "part0.json.gz").write_bytes(packed)
    listing = [json.loads(line) for line in (folder / "manifest-files.json").read_text().splitlines()]
    listing[0]["md5Checksum"] = md5(packed)
    manifest(folder / "manifest-files.json", "".join(json.dumps(entry) + "\n" for entry in listing))


def exported(root: Path, **settings: Any) -> DynamoDB:
    return DynamoDB("dynamo", DynamoDBSettings(export=str(root), **settings))


def test_an_export_gives_what_the_service_gives(tmp_path: Path) -> None:
    export(tmp_path, "types", [EVERY_TYPE])
    texts = TEXTS | {"map": '{"z":%s,"a":[{"deep":null},"😀"]}'.replace("%s", DIGITS)}
    assert rows(exported(tmp_path), "types", list(TEXTS)) == [texts]


def test_the_files_of_an_export_are_shared_out_and_read_once(tmp_path: Path) -> None:
    items = numbered(103)
    export(tmp_path, "t", items[:50], [], items[50:51], items[51:])
    source = exported(tmp_path)
    assert [len(source.partitions("t", wanted)) for wanted in (1, 3, 99)] == [1, 3, 4]
    assert source.count("t") == 103
    for wanted in (1, 3):
        found = rows(source, "t", ["id"], wanted=wanted, batch=20)
        assert sorted(row["id"] for row in found) == [item["id"]["S"] for item in items]


def test_an_export_of_no_items_is_fine(tmp_path: Path) -> None:
    export(tmp_path, "t", [], [])
    assert rows(exported(tmp_path), "t", ["id"]) == []
    assert exported(tmp_path).schema("t").columns == ()


def test_the_schema_of_an_export_is_a_sample_without_a_key(tmp_path: Path) -> None:
    export(tmp_path, "t", [], [EVERY_TYPE])
    schema = exported(tmp_path).schema("t")
    kinds = {column.name: (column.kind, column.native) for column in schema.columns}
    assert kinds["number"] == (Kind.NUMERIC, "N")
    assert kinds["map"] == (Kind.JSON, "M")
    assert kinds["yes"] == (Kind.TEXT, "BOOL")
    assert (schema.key, schema.open) == ((), True)


def test_one_folder_holds_several_tables_and_the_newest_export_of_each_counts(tmp_path: Path) -> None:
    export(tmp_path, "a", numbered(2), export_id="0002-x", when="2026-02-02T00:00:00.000Z")
    export(tmp_path, "a", numbered(1), export_id="0003-x", when="2026-01-01T00:00:00.000Z")
    export(tmp_path / "below" / "b", "", numbered(3), tableArn=None)
    source = exported(tmp_path)
    assert (source.datasets(), source.count("a"), source.count("b")) == (["a", "b"], 2, 3)
    named = exported(tmp_path, export_id="0003-x")
    assert (named.count("a"), named.count("b")) == (1, 3)


def test_an_export_or_table_that_is_not_there_is_named_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished export"):
        exported(tmp_path).datasets()
    with pytest.raises(ConfigError, match="no folder"):
        exported(tmp_path / "no")
    export(tmp_path, "sessions", numbered(1))
    with pytest.raises(ConfigError) as raised:
        exported(tmp_path).count("session")
    assert raised.value.hint == 'did you mean "sessions"?'
    with pytest.raises(ConfigError, match='no export "9"'):
        exported(tmp_path, export_id="9").datasets()


@pytest.mark.parametrize(("field", "value"), [("outputFormat", "ION"), ("exportType", "INCREMENTAL_EXPORT")])
def test_an_export_of_another_kind_is_refused_by_its_name(tmp_path: Path, field: str, value: str) -> None:
    export(tmp_path, "t", numbered(1), **{field: value})
    with pytest.raises(ConfigError, match=value):
        exported(tmp_path).partitions("t", 1)


def corrupt(root: Path) -> str:
    """What is said of a corrupt export, before any record is given."""
    with pytest.raises(CorruptError) as raised:
        exported(root).partitions("t", 2)
    assert raised.value.hint
    return str(raised.value)


def test_a_data_file_with_other_bytes_is_refused_before_any_record(tmp_path: Path) -> None:
    folder = export(tmp_path, "t", numbered(5), numbered(5))
    path = folder / "data" / "part1.json.gz"
    path.write_bytes(path.read_bytes()[:-1])
    assert "part1.json.gz does not have the checksum" in corrupt(tmp_path)


def test_a_missing_data_file_is_refused_before_any_record(tmp_path: Path) -> None:
    (export(tmp_path, "t", numbered(5), numbered(5)) / "data" / "part1.json.gz").unlink()
    assert "part1.json.gz is missing" in corrupt(tmp_path)


def test_a_changed_or_missing_manifest_is_refused(tmp_path: Path) -> None:
    folder = export(tmp_path, "t", numbered(5))
    files = folder / "manifest-files.json"
    text = files.read_text()
    files.write_text(text + "\n")
    assert "manifest-files.json does not have the checksum" in corrupt(tmp_path)
    manifest(files, text[:-9])
    assert "manifest-files.json is not a whole manifest" in corrupt(tmp_path)
    manifest(files, text + text)
    assert "disagree on the number of items" in corrupt(tmp_path)
    files.unlink()
    assert "manifest-files.json is missing" in corrupt(tmp_path)


def test_a_data_file_cannot_point_out_of_its_export(tmp_path: Path) -> None:
    folder = export(tmp_path / "in", "t", numbered(1))
    (tmp_path / "secret.json.gz").write_bytes(b"")
    entry = {"itemCount": 1, "md5Checksum": md5(b""), "dataFileS3Key": "../../../../secret.json.gz"}
    manifest(folder / "manifest-files.json", json.dumps(entry))
    with pytest.raises(CorruptError, match=r"data/secret\.json\.gz is missing"):
        exported(tmp_path / "in").partitions("t", 1)


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (b"no gzip at all", "not a whole gzip file"),
        (gzip.compress(b'{"Item":{"id":{"S":"00000"}}}\n' * 2)[:-6], "not a whole gzip file"),
        (
            gzip.compress(b'{"Item":{"id":{"S":"00000"}}}\n{"Item":{"id":{"S":"secr'),
            "line 2: the file ends in the middle",
        ),
        (gzip.compress(b'{"Item":{"id":{"S":"00000"}}}\n'), "holds 1 items, its manifest says 2"),
        (
            gzip.compress(b'{"Item":{"id":{"S":"00000"}}}\n{"Item":{"id":{"S":"\xff"}}}\n'),
            "line 2: not UTF-8",
        ),
    ],
    ids=["no gzip", "a cut off gzip", "half a line", "a line too few", "not UTF-8"],  # gzip's bytes hold the time
)
def test_a_file_that_contradicts_itself_is_corrupt_though_its_checksum_is_right(
    tmp_path: Path, packed: bytes, said: str
) -> None:
    repack(export(tmp_path, "t", numbered(2)), packed)
    with pytest.raises(CorruptError, match=r"part0\.json\.gz") as raised:
        rows(exported(tmp_path), "t", ["id"])
    assert said in str(raised.value)
    assert "secr" not in str(raised.value)


def test_a_broken_line_in_the_middle_is_trouble_of_one_record(tmp_path: Path) -> None:
    lines = b'{"Item":{"id":{"S":"1"}}}\n{"Item":{"id"\n\n{"Item":{"id":{"S":"3"}}}'
    folder = export(tmp_path, "t", numbered(3))
    repack(folder, gzip.compress(lines))
    found = rows(exported(tmp_path), "t", ["id"])
    assert [row["id"] for row in found] == ["1", None, "3"]
    assert [row["_trouble"] for row in found] == [None, "not valid JSON", None]


@pytest.fixture
def bucket(service: LocalDynamoDB, tmp_path: Path) -> Callable[[Path], DynamoDB]:
    """Puts a folder into a bucket, and gives a source over it."""
    s3 = service.client("s3")
    name = f"exports-{random.SystemRandom().randrange(10**9)}"
    s3.create_bucket(Bucket=name)

    def put(root: Path) -> DynamoDB:
        for path in root.rglob("*.*"):
            s3.upload_file(str(path), name, f"some/prefix/{path.relative_to(root).as_posix()}")
        return DynamoDB("dynamo", DynamoDBSettings(export=f"s3://{name}/some/prefix", **access(service)))

    return put


def test_an_export_in_a_bucket_reads_as_one_in_a_folder(bucket: Callable[[Path], DynamoDB], tmp_path: Path) -> None:
    items = numbered(30)
    export(tmp_path, "t", items[:20], items[20:])
    source = bucket(tmp_path)
    found = rows(source, "t", ["id"], wanted=2)
    assert sorted(row["id"] for row in found) == [item["id"]["S"] for item in items]
    assert (source.datasets(), source.count("t"), source.schema("t").names) == (["t"], 30, ("id", "pad"))
    source.close()
    source.close()


def test_a_corrupt_export_in_a_bucket_is_refused_before_any_record(
    bucket: Callable[[Path], DynamoDB], tmp_path: Path
) -> None:
    folder = export(tmp_path, "t", numbered(5), numbered(6))
    (folder / "data" / "part1.json.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(CorruptError, match=r"part1\.json\.gz does not have the checksum"):
        bucket(tmp_path).partitions("t", 1)
    manifest(folder / "manifest-files.json", (folder / "manifest-files.json").read_text().replace("part1", "gone"))
    with pytest.raises(CorruptError, match=r"gone\.json\.gz is missing"):
        bucket(tmp_path).partitions("t", 1)


def test_a_bucket_that_is_not_there_is_a_configuration_error(service: LocalDynamoDB) -> None:
    with pytest.raises(ConfigError, match="no bucket"):
        DynamoDB("dynamo", DynamoDBSettings(export="s3://nowhere", **access(service))).datasets()
