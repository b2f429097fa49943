"""What only the connector for AppSync does: a schema by introspection, pages, aliases, lost answers, sign-ins."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from textwrap import dedent
from time import sleep
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from resettle.batch import ARROW, TROUBLE, Action, Kind, Status
from resettle.calls import Caller
from resettle.connections import Connections
from resettle.connector import Concurrent
from resettle.connectors import _appsync_auth as auth
from resettle.connectors import _cognito as cognito
from resettle.connectors import _cognito_srp as srp
from resettle.connectors._appsync_http import Answer, Trouble
from resettle.connectors.appsync import AppSync, AppSyncSettings, errors, explained
from resettle.engine import apply as applying
from resettle.engine import plan as planning
from resettle.engine.flow import Options
from resettle.errors import (
    AccessError,
    ConfigError,
    ConnectorError,
    CorruptError,
    RejectedError,
    TransientError,
)
from resettle.mapping.load import Migration, load
from resettle.sandbox.appsync import (
    ACCESS_KEY,
    API_KEY,
    CUT,
    EXPIRED,
    LOST,
    THROTTLED,
    TOO_MANY,
    UNAVAILABLE,
    Fault,
    LocalAppSync,
    start_appsync,
)
from resettle.sandbox.cognito import LocalCognito, start_cognito

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MECO = """
enum MediaType { PHOTO VIDEO }
type IndividualGroup { stage: String! length: Float inner: Inner }
type Inner { marks: [Int] again: IndividualGroup }
type Observation @model @auth(rules: [{allow: public, provider: apiKey}, {allow: groups, groups: ["ADMINS"]}]) {
  sequentialId: Int! @index(name: "observationsBySequentialId", queryField: "listObservationBySequentialId")
  title: String
  seen: AWSDate
  at: AWSTime
  checked: AWSTimestamp
  latitude: Float
  notes: AWSJSON
  tags: [String]
  individualGroups: [IndividualGroup]
  media: [Media] @hasMany(references: ["observationId"])
}
type Media @model @auth(rules: [{allow: public, provider: apiKey}, {allow: groups, groups: ["ADMINS"]}]) {
  url: AWSURL!
  type: MediaType!
  observationId: ID!
  observation: Observation @belongsTo(references: ["observationId"])
  isAvailableForPublicUse: Boolean!
  takenAt: AWSDateTime
}
"""
MEDIA = {
    "id": "m1",
    "url": "https://bucket.example/1.jpg",
    "type": "PHOTO",
    "observationId": "o1",
    "isAvailableForPublicUse": False,
}


@pytest.fixture
def local() -> Iterator[LocalAppSync]:
    with start_appsync(MECO) as made:
        yield made


def opened(local: LocalAppSync, **settings: Any) -> AppSync:
    """A connector that does not really wait between its tries."""
    caller = Caller(functools.partial(errors, connection="app"), sleep=lambda seconds: None)
    return AppSync("app", AppSyncSettings(**{**local.settings(), **settings}), caller=caller)


def media(*numbers: int, **other: Any) -> pa.Table:
    rows = [{**MEDIA, "id": f"m{one}", "url": f"https://bucket.example/{one}.jpg", **other} for one in numbers]
    return pa.Table.from_pylist(rows)


def observations(local: LocalAppSync, count: int) -> None:
    local.data.put("Observation", *({"id": f"o{one}", "sequentialId": one} for one in range(count)))


def numbers(*wanted: int) -> pa.Table:
    return pa.table({"sequentialId": pa.array(wanted, pa.int32())})


def read(source: AppSync, dataset: str, rows: int = 1000) -> list[dict[str, Any]]:
    parts = [batch.table for part in source.partitions(dataset, 4) for batch in source.read(part, rows)]
    return [row for part in parts for row in part.to_pylist()]


def nth(fault: Fault, *turns: int) -> Callable[[Sequence[str]], Fault | None]:
    """This fault at these requests, counted from 1."""
    count = iter(range(1, 1_000_000))
    return lambda fields: fault if next(count) in turns else None


def field_names(local: LocalAppSync) -> list[tuple[str, int]]:
    return [(names[0], len(names)) for names in local.requests]


# -- the schema ------------------------------------------------------------------------------------


def test_datasets_and_columns_are_those_of_the_api(local: LocalAppSync) -> None:
    app = opened(local)
    assert app.datasets() == ["Media", "Observation"]
    schema = app.schema("Observation")
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {
        "id": Kind.TEXT,
        "sequentialId": Kind.INT32,
        "title": Kind.TEXT,
        "seen": Kind.DATE,
        "at": Kind.TIME,
        "checked": Kind.INSTANT,
        "latitude": Kind.FLOAT64,
        "notes": Kind.JSON,
        "tags": Kind.JSON,
        "individualGroups": Kind.JSON,
        "createdAt": Kind.INSTANT,
        "updatedAt": Kind.INSTANT,
    }
    assert schema.key == ("id",)
    required = {column.name for column in schema.columns if not column.nullable and not column.has_default}
    assert required == {"sequentialId"}
    assert {column.name for column in schema.columns if column.generated} == {"createdAt", "updatedAt"}


def test_enums_are_choices_and_relations_are_foreign_keys(local: LocalAppSync) -> None:
    schema = opened(local).schema("Media")
    kind = schema.column("type")
    assert kind is not None
    assert kind.choices == ("PHOTO", "VIDEO")
    (link,) = schema.foreign_keys
    assert (link.columns, link.target, link.target_columns) == (("observationId",), "Observation", ("id",))


def test_a_plural_that_is_the_word_itself_is_read_from_the_schema(local: LocalAppSync) -> None:
    local.data.put("Media", {**MEDIA})
    assert [row["id"] for row in read(opened(local), "Media")] == ["m1"]
    assert local.requests[-1] == ["listMedia"]


def test_a_list_may_have_any_name(local: LocalAppSync) -> None:
    with start_appsync('type Ox @model(queries: {list: "allTheOxen", get: "oneOx"}) { name: String }') as other:
        other.data.put("Ox", {"id": "a", "name": "Bob"})
        app = opened(other)
        assert [row["name"] for row in read(app, "Ox")] == ["Bob"]
        assert app.fetch("Ox", pa.table({"id": ["a"]}), ["name"]).num_rows == 1
        assert other.requests[1:] == [["allTheOxen"], ["oneOx"]]


def test_what_can_only_be_listed_by_its_parent_is_read_by_its_parents() -> None:
    schema = """
    type OmtTranslation @model { translationName: String }
    type OmtAudioFile @model(queries: {list: null}) {
      translationId: ID! @index(queryField: "listAudioFilesByTranslation")
      duration: Float
    }
    type Lost @model(queries: {list: null}) { name: String }
    """
    with start_appsync(schema) as local:
        local.data.put("OmtTranslation", *({"id": f"t{one}"} for one in range(70)))
        local.data.put("OmtAudioFile", *({"id": f"a{one}", "translationId": f"t{one % 60}"} for one in range(600)))
        local.data.empty_pages = 1
        app = opened(local)
        assert sorted(row["id"] for row in read(app, "OmtAudioFile", 4)) == sorted(f"a{one}" for one in range(600))
        with pytest.raises(ConfigError, match="Lost cannot be listed"):
            app.partitions("Lost", 1)


def test_an_api_that_hides_its_schema_is_an_access_error(local: LocalAppSync) -> None:
    local.introspection = False
    with pytest.raises(AccessError, match="introspection"):
        opened(local).datasets()


# -- reading ---------------------------------------------------------------------------------------


def test_an_empty_page_is_not_the_end(local: LocalAppSync) -> None:
    observations(local, 250)
    local.data.empty_pages = 2
    app = opened(local, page_size=100)
    assert len(read(app, "Observation")) == 250
    assert app.fetch("Observation", numbers(7), ["id"])["id"].to_pylist() == ["o7"]
    assert app.fetch("Observation", pa.table({"latitude": [1.5]}), ["id"]).num_rows == 0
    assert not app.empty("Observation")
    assert app.empty("Media")


def test_every_kind_of_value_arrives_and_goes_back_exactly(local: LocalAppSync) -> None:
    groups = '[{"stage":"ADULT","length":1.25,"inner":{"marks":[1,null]}}]'
    values = {
        "id": "o1",
        "sequentialId": -(2**31),
        "title": "a\x00b 👩‍👩‍👧 \u2028",
        "seen": date(2024, 2, 29),
        "at": time(23, 59, 59, 123456),
        "checked": datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        "latitude": 0.1,
        "notes": '{"b":1,"a":[null,"é"]}',
        "tags": '["x",null,""]',
        "individualGroups": groups,
    }
    app = opened(local)
    wanted = {column.name: column.kind for column in app.schema("Observation").columns}
    rows = pa.table({name: pa.array([value], ARROW[wanted[name]]) for name, value in values.items()})
    app.write("Observation", rows, ["id"], Action.CREATE)
    (row,) = read(app, "Observation")
    assert {name: row[name] for name in values} == values
    assert local.items("Observation")[0]["individualGroups"] == json.loads(groups)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2024-01-01T00:00:00Z", datetime(2024, 1, 1, tzinfo=UTC)),
        ("2024-01-01T00:00:00.123456+05:30", datetime(2023, 12, 31, 18, 30, 0, 123456, tzinfo=UTC)),
        ("2024-01-01T00:00-00:00:30", datetime(2024, 1, 1, 0, 0, 30, tzinfo=UTC)),
        ("2024-01-01T00:00:00.123456000Z", datetime(2024, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)),
        ("2024-01-01T00:00:00.123456789Z", None),
        ("0000-00-00T00:00:00Z", None),
    ],
)
def test_an_instant_is_kept_exactly_or_the_record_is_in_trouble(
    local: LocalAppSync, given: str, kept: datetime | None
) -> None:
    local.data.put("Media", {**MEDIA, "takenAt": given}, {**MEDIA, "id": "m2", "takenAt": "2024-06-01T00:00:00Z"})
    first, second = read(opened(local), "Media")
    assert first["takenAt"] == kept
    assert second["takenAt"] == datetime(2024, 6, 1, tzinfo=UTC)
    assert (first.get(TROUBLE) is None) == (kept is not None)
    assert given not in str(first.get(TROUBLE))


@pytest.mark.parametrize(("column", "value"), [("seen", "2024-01-01+02:00"), ("at", "10:00:00Z"), ("checked", 1.5)])
def test_what_a_column_cannot_keep_is_trouble_and_cannot_be_fetched(
    local: LocalAppSync, column: str, value: Any
) -> None:
    local.data.put("Observation", {"id": "o1", "sequentialId": 1, column: value}, {"id": "o2", "sequentialId": 2})
    app = opened(local)
    first, second = read(app, "Observation")
    assert (first["id"], first[column], second[TROUBLE]) == ("o1", None, None)
    assert first[TROUBLE].startswith(f"{column}: ")
    with pytest.raises(RejectedError) as caught:
        app.fetch("Observation", numbers(1), [column])
    assert caught.value.reason == "nonconforming"
    assert str(value) not in f"{caught.value} {first[TROUBLE]}"


def test_a_record_that_the_service_cannot_give_is_in_trouble_by_its_id(local: LocalAppSync) -> None:
    observations(local, 3)
    del local.data.items["Observation"]["o1"]["sequentialId"]
    rows = read(opened(local), "Observation")
    assert [row["id"] for row in rows] == ["o0", "o1", "o2"]
    assert [row[TROUBLE] for row in rows] == [None, "sequentialId: the service cannot give it", None]


def test_a_record_that_the_service_cannot_give_cannot_be_looked_up(local: LocalAppSync) -> None:
    schema = 'type Foo @model { kind: String @index(queryField: "byKind") name: String! }'
    with start_appsync(schema) as other:
        other.data.put("Foo", {"id": "a", "kind": "k", "name": "x"}, {"id": "b", "kind": "k"})
        with pytest.raises(RejectedError) as caught:
            opened(other).fetch("Foo", pa.table({"kind": ["k"]}), ["name"])
        assert (caught.value.reason, caught.value.detail) == ("nonconforming", "name: the service cannot give it")


# -- looking up ------------------------------------------------------------------------------------


def test_twenty_thousand_look_ups_take_a_few_hundred_requests_at_most(local: LocalAppSync) -> None:
    observations(local, 20_000)
    app = opened(local)
    found = app.fetch("Observation", numbers(*range(0, 40_000, 2)), ["id"])
    assert found.num_rows == 10_000
    assert len(local.requests) <= 30
    assert set(zip(found["sequentialId"].to_pylist(), found["id"].to_pylist(), strict=True)) == {
        (one, f"o{one}") for one in range(0, 20_000, 2)
    }


def test_a_few_look_ups_go_by_the_index_many_in_a_request(local: LocalAppSync) -> None:
    observations(local, 500)
    app = opened(local, aliases={"read": 20})
    app.datasets()
    local.requests.clear()
    assert app.fetch("Observation", numbers(*range(490, 530)), ["id"]).num_rows == 10
    assert field_names(local) == [("listObservationBySequentialId", 20)] * 2


def test_as_many_requests_are_under_way_as_the_run_says(local: LocalAppSync) -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def slow(fields: Sequence[str]) -> Fault | None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        sleep(0.05)
        with lock:
            under_way -= 1
        return None

    app = opened(local, workers=2, aliases={"write": 1})
    assert isinstance(app, Concurrent)
    app.datasets()
    local.faults = slow
    for wanted in (2, 1, 5):
        app.concurrency, most = wanted, 0
        app.write("Media", media(*range(wanted * 100, wanted * 100 + 12)), ("id",), Action.CREATE)
        assert most == wanted


def test_a_list_that_turns_out_long_is_given_up_and_not_tried_again(local: LocalAppSync) -> None:
    observations(local, 1000)
    app = opened(local, page_size=10, aliases={"read": 10})
    app.datasets()
    for tries in (5, 0):
        local.requests.clear()
        assert app.fetch("Observation", numbers(*range(100)), ["id"]).num_rows == 100
        listed = [names for names in local.requests if names == ["listObservations"]]
        assert len(listed) == tries + (tries > 0)
        assert len(local.requests) - len(listed) == 10


def test_an_index_gives_all_rows_of_a_value_on_all_its_pages(local: LocalAppSync) -> None:
    local.data.put("Observation", *({"id": f"o{one}", "sequentialId": one % 2} for one in range(501)))
    found = opened(local).fetch("Observation", numbers(0, 1), ["id"])
    assert found.num_rows == 501


def test_an_index_may_take_its_value_as_an_option() -> None:
    schema = 'type Foo @model { kind: String @index(queryField: "entriesByKind") }'
    with start_appsync(schema) as local:
        query = local.data.api.types["Query"].fields["entriesByKind"]
        optional = type(query)("entriesByKind", query.type, {**query.args, "kind": type(query.type)("String")})
        local.data.api.types["Query"].fields["entriesByKind"] = optional  # type: ignore[index]
    model = opened_model(schema, optional)
    assert (model.listing.field, [one.field for one in model.indexes]) == ("listFoos", ["entriesByKind"])


def opened_model(schema: str, query: Any) -> Any:
    from resettle.connectors._appsync_schema import models
    from resettle.sandbox._amplify import api_of, introspected

    api = api_of(schema)
    api.types["Query"].fields[query.name] = query  # type: ignore[index]
    return models({"__schema": introspected(api)}, readonly=False)["Foo"]


def test_a_key_that_no_record_can_have_is_not_even_asked_for(local: LocalAppSync) -> None:
    with start_appsync("type Foo @model { name: String }") as other:
        other.data.put("Foo", {"id": "a", "name": "x"})
        found = opened(other).fetch("Foo", pa.table({"id": ["a", None, "'\"} {"]}), ["name"])
        assert found.to_pylist() == [{"id": "a", "name": "x"}]


def test_the_rows_that_point_nowhere_are_counted(local: LocalAppSync) -> None:
    observations(local, 3)
    local.data.put("Media", *({**MEDIA, "id": f"m{one}", "observationId": f"o{one}"} for one in range(5)))
    app = opened(local)
    assert app.orphans("Media").to_pylist() == [{"constraint": "Media_observationId_fkey", "count": 2}]
    assert app.orphans("Observation").num_rows == 0


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [LOST, Fault(503, after=True), Fault(200, "ExecutionTimeout", "", after=True)])
def test_a_lost_answer_never_becomes_a_second_row_nor_a_refusal(local: LocalAppSync, fault: Fault) -> None:
    app = opened(local, workers=1)
    app.datasets()
    local.faults = nth(fault, 1, 3, 4)
    app.write("Media", media(*range(60)), ["id"], Action.CREATE)
    assert len(local.items("Media")) == 60


def test_rows_without_an_id_get_the_same_one_every_time(local: LocalAppSync) -> None:
    app = opened(local)
    rows = media(*range(30)).drop_columns(["id"])
    local.faults = nth(LOST, 3)
    app.write("Media", rows, ["url", "observationId"], Action.CREATE)
    made = sorted(item["id"] for item in local.items("Media"))
    assert len(made) == 30
    app.write("Media", rows, ["url", "observationId"], Action.CREATE)
    assert sorted(item["id"] for item in local.items("Media")) == made
    local.data.items["Media"].clear()
    opened(local).write("Media", rows, ["url", "observationId"], Action.CREATE)
    assert sorted(item["id"] for item in local.items("Media")) == made


def test_a_row_that_is_there_with_other_values_is_a_refusal_and_stays(local: LocalAppSync) -> None:
    local.data.put("Media", {**MEDIA, "id": "m2", "url": "https://theirs.example/"})
    app = opened(local)
    with pytest.raises(RejectedError) as caught:
        app.write("Media", media(1, 2, 3), ["id"], Action.CREATE)
    assert caught.value.reason == "exists"
    there = {item["id"]: item["url"] for item in local.items("Media")}
    assert there == {
        "m1": "https://bucket.example/1.jpg",
        "m2": "https://theirs.example/",
        "m3": "https://bucket.example/3.jpg",
    }
    found = app.refusals([("Media", media(1, 2, 3), ["id"], Action.CREATE)], [pa.array(["u1", "u2", "u3"])])
    assert found is not None
    assert found.to_pylist() == [{"unit": "u2", "reason": "exists", "detail": "id"}]


def test_one_bad_value_does_not_spoil_its_neighbours(local: LocalAppSync) -> None:
    app = opened(local)
    bad = media(7, url="Throttling Unauthorized //secret value")
    rows = pa.concat_tables([media(*range(7)), bad, media(*range(8, 20))])
    units = pa.array([f"u{one}" for one in range(20)])
    with pytest.raises(RejectedError) as caught:
        app.write("Media", rows, ["id"], Action.CREATE)
    assert caught.value.reason == "type"
    assert "secret" not in f"{caught.value} {caught.value.detail}"
    assert len(local.items("Media")) == 19
    found = app.refusals([("Media", rows, ["id"], Action.CREATE)], [units])
    assert found is not None
    assert [(row["unit"], row["reason"]) for row in found.to_pylist()] == [("u7", "type")]
    app.write("Media", rows.filter(pa.array([one != 7 for one in range(20)])), ["id"], Action.CREATE)


@pytest.mark.parametrize(
    ("column", "value", "reason"), [("type", "IMAGE", "check"), ("url", None, "null"), ("type", None, "null")]
)
def test_what_the_schema_forbids_is_refused_before_anything_is_sent(
    local: LocalAppSync, column: str, value: Any, reason: str
) -> None:
    app = opened(local)
    app.datasets()
    local.requests.clear()
    with pytest.raises(RejectedError) as caught:
        app.write("Media", pa.concat_tables([media(1), media(2, **{column: value})], promote_options="default"),
                  ["id"], Action.CREATE)  # fmt: skip
    assert (caught.value.reason, caught.value.detail) == (reason, column)
    assert local.requests == []


def test_only_what_was_throttled_is_sent_again(local: LocalAppSync) -> None:
    app = opened(local, aliases={"write": 10}, workers=1)
    app.datasets()
    local.requests.clear()
    local.faults = nth(Fault(200, "DynamoDB:ProvisionedThroughputExceededException", "", only=4), 1)
    app.write("Media", media(*range(20)), ["id"], Action.CREATE)
    assert field_names(local) == [("createMedia", 10), ("createMedia", 1), ("createMedia", 10)]
    assert len(local.items("Media")) == 20


def without_paths(app: AppSync, *, told: bool = True) -> None:
    """From here on an answer's errors do not say which field they are about, or are not there at all."""
    run = app._http.run

    def stripped(query: str, variables: Mapping[str, Any] | None = None) -> Answer:
        found = run(query, variables)
        return Answer(found.data, [Trouble((), one.kind, one.text) for one in found.troubles] if told else ())

    app._http.run = stripped  # type: ignore[method-assign]


@pytest.mark.parametrize("told", [True, False])
def test_a_row_that_was_throttled_is_sent_again_although_its_error_names_no_field(
    local: LocalAppSync, *, told: bool
) -> None:
    app = opened(local, aliases={"write": 10}, workers=1)
    app.datasets()
    without_paths(app, told=told)
    local.requests.clear()
    local.faults = nth(Fault(200, "ThrottlingException", "Rate exceeded", only=4), 1, 3)
    app.write("Media", media(*range(10)), ["id"], Action.CREATE)
    assert len(local.items("Media")) == 10
    app.write("Media", media(*range(10), isAvailableForPublicUse=True), ["id"], Action.UPDATE)
    assert all(item["isAvailableForPublicUse"] for item in local.items("Media"))
    assert field_names(local) == [
        ("createMedia", 10),
        ("createMedia", 1),
        ("updateMedia", 10),
        ("updateMedia", 1),
    ]


@pytest.mark.parametrize("told", [True, False])
def test_a_list_and_an_index_that_give_nothing_are_asked_again(local: LocalAppSync, *, told: bool) -> None:
    observations(local, 500)
    app = opened(local, aliases={"read": 20}, workers=1)
    app.datasets()
    without_paths(app, told=told)
    local.faults = nth(Fault(200, "ThrottlingException", "Rate exceeded", only=0), 1, 3)
    assert app.fetch("Observation", numbers(*range(490, 530)), ["id"]).num_rows == 10
    assert len(read(app, "Observation")) == 500
    local.faults = lambda fields: Fault(200, "ThrottlingException", "Rate exceeded", only=0)
    with pytest.raises(TransientError):
        app.fetch("Observation", numbers(*range(490, 530)), ["id"])


def test_a_record_that_is_not_given_is_absent_unless_the_answer_has_an_error(local: LocalAppSync) -> None:
    local.data.put("Media", *(dict(one) for one in media(*range(3)).to_pylist()))
    app = opened(local)
    app.datasets()
    without_paths(app)
    keys = pa.table({"id": ["m1", "gone", "m2"]})
    local.faults = nth(Fault(200, "ThrottlingException", "Rate exceeded", only=0), 1)
    assert sorted(app.fetch("Media", keys, [])["id"].to_pylist()) == ["m1", "m2"]
    local.faults = lambda fields: Fault(200, "Unauthorized", "Not Authorized", only=0)
    with pytest.raises(AccessError):
        app.fetch("Media", keys, [])


def test_a_page_without_its_list_is_not_an_empty_page(local: LocalAppSync) -> None:
    observations(local, 30)
    app = opened(local, page_size=10)
    app.datasets()
    nothing = {"r0": {"items": None, "nextToken": None}}
    corrupt = Trouble(("r0", "items", 0), "", "Cannot return null for non-nullable type: 'Observation'")
    answers = {1: Answer(nothing), 5: Answer(nothing, [corrupt])}
    run, asked = app._http.run, iter(range(100))

    def emptied(query: str, variables: Mapping[str, Any] | None = None) -> Answer:
        found = run(query, variables)
        return answers.get(next(asked), found)

    app._http.run = emptied  # type: ignore[method-assign]
    assert len(read(app, "Observation")) == 30
    with pytest.raises(CorruptError):
        read(app, "Observation")


def test_an_update_sends_only_its_columns_and_makes_no_rows(local: LocalAppSync) -> None:
    app = opened(local)
    app.write("Media", media(1, 2), ["id"], Action.CREATE)
    rows = pa.table({"id": ["m1", "m9"], "takenAt": pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * 2)})
    app.write("Media", rows, ["id"], Action.UPDATE)
    there = {item["id"]: item.get("takenAt") for item in local.items("Media")}
    assert there == {"m1": "2024-01-01T00:00:00.000Z", "m2": None}
    assert local.items("Media")[1]["url"] == "https://bucket.example/2.jpg"


def test_an_update_by_another_key_finds_the_rows_first(local: LocalAppSync) -> None:
    observations(local, 3)
    app = opened(local)
    rows = pa.table({"sequentialId": pa.array([1, 7], pa.int32()), "title": ["one", "seven"]})
    app.write("Observation", rows, ["sequentialId"], Action.UPDATE)
    assert [item.get("title") for item in local.items("Observation")] == [None, "one", None]


def test_deleting_gives_the_number_that_was_there(local: LocalAppSync) -> None:
    observations(local, 5)
    app = opened(local)
    local.faults = nth(LOST, 3)
    assert app.delete("Observation", pa.table({"id": ["o1", "o3", "o3", "gone"]})) == 2
    assert [item["id"] for item in local.items("Observation")] == ["o0", "o2", "o4"]


def test_a_row_that_somebody_changed_since_it_was_looked_at_is_not_deleted(local: LocalAppSync) -> None:
    observations(local, 5)
    app = opened(local)
    keys = pa.table({"id": ["o1", "o2", "o3", "gone"]})
    with pytest.raises(TransientError, match="somebody else"), app.transaction():  # noqa: PT012
        app.fetch("Observation", keys, ["title"], lock=True)
        app.write("Observation", pa.table({"id": ["o2"], "title": ["theirs"]}), ["id"], Action.UPDATE)
        app.delete("Observation", keys)
    assert [item["id"] for item in local.items("Observation")] == ["o0", "o2", "o4"]
    with app.transaction():
        app.fetch("Observation", keys, ["title"], lock=True)
        local.faults = nth(LOST, 2)
        assert app.delete("Observation", keys) == 1
    assert [item["id"] for item in local.items("Observation")] == ["o0", "o4"]


def test_what_is_gone_before_it_is_deleted_is_deleted(local: LocalAppSync) -> None:
    """AppSync's own resolver then gives null and no error, Amplify's simulator an error."""
    observations(local, 3)
    app = opened(local)
    app.datasets()
    local.faults = nth(LOST, 2)
    without_paths(app, told=False)
    assert app.delete("Observation", pa.table({"id": ["o1"]})) == 1
    assert [item["id"] for item in local.items("Observation")] == ["o0", "o2"]


def test_a_column_that_the_service_sets_cannot_be_written(local: LocalAppSync) -> None:
    rows = media(1).append_column("createdAt", pa.array([datetime.now(UTC)]))
    with pytest.raises(ConfigError, match="createdAt"):
        opened(local).write("Media", rows, ["id"], Action.CREATE)


def test_a_readonly_connection_never_writes(local: LocalAppSync) -> None:
    app = opened(local, readonly=True)
    assert app.schema("Media").privileges == {"select"}
    for write in (lambda: app.write("Media", media(1), ["id"], Action.CREATE), lambda: app.delete("Media", media(1))):
        with pytest.raises(AccessError):
            write()
    assert local.items("Media") == []


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [THROTTLED, TOO_MANY, UNAVAILABLE, CUT, Fault(200, "InternalFailure", "?")])
def test_what_passes_is_tried_again(local: LocalAppSync, fault: Fault) -> None:
    observations(local, 30)
    local.faults = nth(fault, 1, 3, 4)
    assert len(read(opened(local, page_size=10), "Observation")) == 30


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("HTTP 429 : ", TransientError),
        ("ThrottlingException: Rate exceeded", TransientError),
        ("DynamoDB:ProvisionedThroughputExceededException: x", TransientError),
        ("DynamoDB:DynamoDbException: Throughput exceeds the current capacity of your table", TransientError),
        ("ExecutionTimeout: Execution timed out.", TransientError),
        ("InternalFailure: ", TransientError),
        ("HTTP 502 : ", TransientError),
        ("HTTP 401 UnauthorizedException: Token has expired.", AccessError),
        ("HTTP 403 AccessDeniedException: User is not authorized", AccessError),
        ("HTTP 403 UnrecognizedClientException: invalid token", AccessError),
        ("Unauthorized: Not Authorized to access createMedia on type Mutation", AccessError),
        ("DynamoDB:ConditionalCheckFailedException: The conditional request failed", RejectedError),
        (": Variable 'r3_input' has an invalid value. Unable to parse `Rate exceeded` as `AWSURL`.", RejectedError),
        ("ValidationError: Validation error of type WrongType: argument", RejectedError),
        ("DynamoDB:ValidationException: x", RejectedError),
        ("DynamoDB:DynamoDbException: Item size has exceeded the maximum allowed size", RejectedError),
        ("ConflictUnhandled: x", RejectedError),
        (": Cannot return null for non-nullable type: 'Int'", CorruptError),
        (": Validation error of type FieldUndefined: Field 'x'", ConnectorError),
        ("HTTP 400 BadRequestException: x", ConnectorError),
        ("Lambda:Unhandled: secret words", ConnectorError),
        ("", ConnectorError),
    ],
)
def test_an_error_inside_an_answer_has_its_class(text: str, kind: type[ConnectorError]) -> None:
    found = explained(text, "app")
    assert type(found) is kind
    said = f"{found} {found.hint}"
    assert not any(value in said for value in ("secret", "Rate exceeded", "createMedia", "'x'"))


def test_what_is_unknown_is_not_tried_again(local: LocalAppSync) -> None:
    app = opened(local)
    app.datasets()
    local.requests.clear()
    local.faults = lambda fields: Fault(200, "Lambda:Unhandled", "secret words")
    with pytest.raises(ConnectorError, match="Lambda:Unhandled") as caught:
        app.write("Media", media(1), ["id"], Action.CREATE)
    assert len(local.requests) == 1
    assert "secret" not in str(caught.value)


def test_a_wrong_key_is_an_access_error_that_does_not_hold_it(local: LocalAppSync) -> None:
    with pytest.raises(AccessError) as caught:
        opened(local, api_key="da2-wrong").datasets()
    assert "da2-wrong" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.connection == "app"


def test_a_secret_never_travels_in_the_open() -> None:
    with pytest.raises(ConfigError, match="https"):
        AppSync("app", AppSyncSettings(url="http://example.org/graphql", api_key="x"))
    named = {"user_pool": "us-east-1_x", "client_id": "c", "username": "u", "password": "p"}
    with pytest.raises(ConfigError, match="https"):
        AppSync(
            "app", AppSyncSettings(url="https://example.org/graphql", cognito={**named, "endpoint": "http://e.org"})
        )


@pytest.mark.parametrize("ways", [{}, {"api_key": "x", "iam": {"region": "us-east-1"}}])
def test_there_is_one_way_in(ways: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="one of"):
        AppSyncSettings(url="https://example.org/graphql", **ways)


# -- in a migration --------------------------------------------------------------------------------


def meco(folder: Path, local: LocalAppSync, photos: int) -> Migration:
    """Photos of a SQLite file become Media of the observation whose sequentialId is their number."""
    with sqlite3.connect(folder / "photos.sqlite") as base:
        base.execute("CREATE TABLE photos (id TEXT PRIMARY KEY, number INTEGER, kind TEXT)")
        kinds = ((f"p{one}", one, "IMAGE" if one == 7 else "PHOTO") for one in range(photos))
        base.executemany("INSERT INTO photos VALUES (?, ?, ?)", kinds)
    base.close()
    declared = f"""
        migration: meco
        connections:
          old: {{type: sqlite, path: photos.sqlite}}
          app: {{type: appsync, url: "{local.url}", api_key: {API_KEY}}}
        lookups:
          observations: {{from: app.Observation, key: sequentialId, value: id}}
        flows:
          photos:
            from: old.photos
            unit: id
            into: app.Media
            columns:
              id: {{mint: uuid}}
              url: "'https://bucket.example/' || number || if(number = 9, ' bad', '')"
              type: kind
              observationId: {{lookup: observations, "on": number}}
              isAvailableForPublicUse: {{value: false}}
        """
    (folder / "migration.yaml").write_text(dedent(declared))
    return load(folder)


def test_a_run_with_faults_ends_as_one_without_and_the_next_writes_nothing(
    local: LocalAppSync, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Caller, "_delay", lambda self, state: 0.0)
    observations(local, 300)
    migration = meco(tmp_path, local, 300)
    rng = random.Random(1)
    local.faults = lambda fields: rng.choice([THROTTLED, UNAVAILABLE, CUT, LOST, *[None] * 8])
    for _ in range(2):
        with Connections(migration) as connections:
            done = applying.apply(migration, connections, connections.ledger(), Options(), NOW)
        (counts,) = done.counts
        assert counts.units[Status.HELD] == 2
        made = local.items("Media")
        assert len(made) == 298
        assert len({item["observationId"] for item in made}) == 298
        writes = [names for names in local.requests if names[0] in ("createMedia", "updateMedia", "deleteMedia")]
        assert bool(writes) == (counts.units[Status.DONE] > 0)
        local.requests.clear()
    assert counts.units[Status.UNCHANGED] == 298


def test_a_plan_for_many_thousands_takes_few_requests(local: LocalAppSync, tmp_path: Path) -> None:
    observations(local, 20_000)
    migration = meco(tmp_path, local, 20_000)
    with Connections(migration) as connections:
        planning.plan(migration, connections, connections.ledger(), Options(), NOW)
    assert len(local.requests) < 100
    assert local.items("Media") == []


# -- IAM -------------------------------------------------------------------------------------------


def test_iam_signs_every_request(local: LocalAppSync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sandbox")
    app = opened(local, api_key=None, iam={"region": "us-east-1"})
    assert app.datasets() == ["Media", "Observation"]
    signed = auth.Iam(auth.IamSettings(region="us-east-1"))
    first, second = (signed.headers(local.url, body)["Authorization"] for body in (b"{}", b"{ }"))
    assert first.startswith(f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/")
    assert first != second
    with pytest.raises(AccessError):
        opened(local, api_key=None, iam={"region": "eu-west-1"}).datasets()


def test_a_profile_that_is_not_there_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="profile"):
        auth.Iam(auth.IamSettings(region="us-east-1", profile="no such profile"))


# -- Cognito ---------------------------------------------------------------------------------------


@pytest.fixture
def pool() -> Iterator[LocalCognito]:
    with start_cognito() as made:
        yield made


NAME, PASSWORD = "anna@example.org", "Perman3nt!"


def signed_in(local: LocalAppSync, pool: LocalCognito, **settings: Any) -> AppSync:
    named = {**pool.settings(NAME, PASSWORD), **settings}
    return opened(local, api_key=None, cognito=named)


@pytest.mark.parametrize("flow", ["srp", "password"])
def test_a_user_of_the_group_comes_in(pool: LocalCognito, flow: str) -> None:
    pool.add(NAME, PASSWORD, "ADMINS")
    with start_appsync(MECO, tokens=pool) as local:
        app = signed_in(local, pool, flow=flow, group="ADMINS")
        app.write("Media", media(1), ["id"], Action.CREATE)
        assert app.fetch("Media", pa.table({"id": ["m1"]}), []).num_rows == 1


def test_a_user_without_the_group_is_told_so(pool: LocalCognito) -> None:
    pool.add(NAME, PASSWORD, "READERS")
    with start_appsync(MECO, tokens=pool) as local:
        with pytest.raises(AccessError, match="not in the group `ADMINS`"):
            signed_in(local, pool, group="ADMINS").datasets()
        with pytest.raises(AccessError, match="group"):
            signed_in(local, pool).write("Media", media(1), ["id"], Action.CREATE)
        assert local.items("Media") == []


@pytest.mark.parametrize("given", [{"password": "Wr0ng!pass"}, {"username": "nobody@example.org"}])
def test_a_wrong_password_and_an_unknown_user_are_told_alike(pool: LocalCognito, given: dict[str, str]) -> None:
    pool.add(NAME, PASSWORD)
    with start_appsync(MECO, tokens=pool) as local:
        with pytest.raises(AccessError) as caught:
            signed_in(local, pool, flow="password", **given).datasets()
        assert str(caught.value) == "app: Cognito refuses the user name or the password"


@pytest.mark.parametrize("flow", ["srp", "password"])
def test_a_first_password_has_to_be_changed(pool: LocalCognito, flow: str) -> None:
    pool.add(NAME, "Temp0rary!", temporary=True)
    with start_appsync(MECO, tokens=pool) as local:
        with pytest.raises(AccessError, match="`new_password`"):
            signed_in(local, pool, flow=flow, password="Temp0rary!").datasets()
        signed_in(local, pool, flow=flow, password="Temp0rary!", new_password=PASSWORD).datasets()
        signed_in(local, pool, flow="password").datasets()


def test_a_person_at_a_terminal_is_asked(pool: LocalCognito) -> None:
    pool.add(NAME, "Temp0rary!", temporary=True)
    asked: list[str] = []
    made = user_of(pool, password="Temp0rary!", ask=lambda question: asked.append(question) or PASSWORD)
    assert made.headers("", b"")["Authorization"].count(".") == 2
    assert asked == ["A new password"]


def user_of(
    pool: LocalCognito,
    *,
    clock: Callable[[], float] = lambda: datetime.now(UTC).timestamp(),
    ask: Callable[[str], Any] = lambda question: None,
    **settings: Any,
) -> cognito.Cognito:
    named = cognito.CognitoSettings(**{**pool.settings(NAME, PASSWORD), **settings})
    return cognito.Cognito(named, cognito.urllib3.PoolManager(retries=False), clock=clock, ask=ask)


@pytest.mark.parametrize("flow", ["srp", "password"])
def test_a_one_time_code_comes_from_its_secret(flow: str) -> None:
    with start_cognito(mfa="ON") as pool:
        pool.add(NAME, PASSWORD)
        first = pool.client.initiate_auth(
            ClientId=pool.client_id,
            AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": NAME, "PASSWORD": PASSWORD},
        )["AuthenticationResult"]["AccessToken"]
        secret = pool.client.associate_software_token(AccessToken=first)["SecretCode"]
        pool.client.verify_software_token(AccessToken=first, UserCode="123456")
        with pytest.raises(AccessError, match="`totp_secret`"):
            user_of(pool, flow=flow).headers("", b"")
        assert user_of(pool, flow=flow, totp_secret="JBSWY3DPEHPK3PXP").headers("", b"")["Authorization"]
        assert secret


def test_an_app_client_may_have_a_secret() -> None:
    with start_cognito(secret=True) as pool:
        pool.add(NAME, PASSWORD)
        described = pool.client.describe_user_pool_client(UserPoolId=pool.user_pool, ClientId=pool.client_id)
        secret = described["UserPoolClient"]["ClientSecret"]
        assert user_of(pool, client_secret=secret).headers("", b"")["Authorization"]
        with pytest.raises(cognito.CognitoError, match="NotAuthorizedException"):
            user_of(pool, client_secret="wrong").headers("", b"")


def test_a_token_is_renewed_before_it_ends(pool: LocalCognito) -> None:
    pool.add(NAME, PASSWORD)
    now = [datetime.now(UTC).timestamp()]
    calls: list[str] = []
    made = user_of(pool, clock=lambda: now[0])
    post = made._post
    made._post = lambda action, body: calls.append(body.get("AuthFlow", "")) or post(action, body)  # type: ignore
    first = made.headers("", b"")
    now[0] += 3600 - cognito.EARLY - 1
    assert made.headers("", b"") == first
    assert calls == ["USER_SRP_AUTH", ""]
    now[0] += 2
    assert made.headers("", b"")
    assert calls == ["USER_SRP_AUTH", "", "REFRESH_TOKEN_AUTH"]


def test_a_refresh_token_that_was_revoked_means_another_sign_in(pool: LocalCognito) -> None:
    pool.add(NAME, PASSWORD)
    now = [datetime.now(UTC).timestamp()]
    made = user_of(pool, clock=lambda: now[0])
    made.headers("", b"")
    made._refresh = "revoked"
    now[0] += 7200
    assert made.headers("", b"")["Authorization"]


def test_a_token_that_is_refused_is_renewed_once(pool: LocalCognito) -> None:
    pool.add(NAME, PASSWORD, "ADMINS")
    with start_appsync(MECO, tokens=pool) as local:
        app = signed_in(local, pool)
        app.datasets()
        local.faults = nth(EXPIRED, 1)
        assert read(app, "Media") == []
        local.faults = lambda fields: EXPIRED
        local.requests.clear()
        with pytest.raises(AccessError):
            read(app, "Media")
        assert len(local.requests) <= 2


def test_every_error_of_a_sign_in_has_its_class() -> None:
    import botocore.session

    service = botocore.session.get_session().get_service_model("cognito-idp")
    known = {
        shape.name
        for operation in ("InitiateAuth", "RespondToAuthChallenge")
        for shape in service.operation_model(operation).error_shapes
    }
    assert known <= cognito.COGNITO.keys()


def test_no_message_of_a_sign_in_names_the_user_or_the_password(pool: LocalCognito) -> None:
    for kind in [*cognito.COGNITO, "NewException"]:
        said = str(cognito.cognito_error(cognito.CognitoError(kind, 400), "app"))
        assert NAME not in said
        assert PASSWORD not in said
    assert isinstance(cognito.cognito_error(cognito.CognitoError("", 500), "app"), TransientError)


# -- what a sign-in computes -----------------------------------------------------------------------


class Verifier:
    """The service's side of the password's proof, by RFC 5054 with Cognito's hashes."""

    def __init__(self, pool: str, user: str, password: str, salt: int, secret: int) -> None:
        inner = hashlib.sha256(f"{pool}{user}:{password}".encode()).digest()
        self.verifier = pow(2, self.number(self.hexed(salt), inner), srp.MODULUS)
        multiplier = self.number(b"\0", srp.MODULUS.to_bytes(384, "big"), b"\2")
        self.public = (multiplier * self.verifier + pow(2, secret, srp.MODULUS)) % srp.MODULUS
        self.secret = secret

    @staticmethod
    def hexed(number: int) -> bytes:
        text = f"{number:x}"
        text = text if len(text) % 2 == 0 else f"0{text}"
        return bytes.fromhex(text if text[0] in "01234567" else f"00{text}")

    @staticmethod
    def number(*parts: bytes) -> int:
        return int(hashlib.sha256(b"".join(parts)).hexdigest(), 16)

    def key(self, theirs: int) -> bytes:
        mix = self.number(self.hexed(theirs), self.hexed(self.public))
        shared = pow(theirs * pow(self.verifier, mix, srp.MODULUS), self.secret, srp.MODULUS)
        extracted = hmac.new(self.hexed(mix), self.hexed(shared), hashlib.sha256).digest()
        return hmac.new(extracted, b"Caldera Derived Key" + b"\1", hashlib.sha256).digest()[:16]


@pytest.mark.parametrize("salt", [0x7F, 0x80, 0xABC, 2**127 + 1])
@pytest.mark.parametrize("secret", [3, 2**1023 + 12345])
def test_both_sides_of_the_proof_find_the_same_key(salt: int, secret: int) -> None:
    service = Verifier("pool", "user-1", PASSWORD, salt, secret)
    for ours in (5, 2**1000 + 7):
        proof = srp.Proof("us-east-1_pool", ours)
        assert proof.key("pool", "user-1", PASSWORD, salt, service.public) == service.key(proof.public)
        assert proof.key("pool", "user-1", "wrong", salt, service.public) != service.key(proof.public)


def test_the_signature_covers_the_pool_the_user_the_block_and_the_moment() -> None:
    service = Verifier("pool", "user-1", PASSWORD, 99, 2**700 + 1)
    proof = srp.Proof("us-east-1_pool", 2**600 + 1)
    moment, block = "Fri Nov 6 08:05:03 UTC 2026", base64.b64encode(b"\x00block").decode()
    assert srp.stamp(datetime(2026, 11, 6, 8, 5, 3, tzinfo=UTC)) == moment
    said = b"pool" + b"user-1" + b"\x00block" + moment.encode()
    wanted = base64.b64encode(hmac.new(service.key(proof.public), said, hashlib.sha256).digest()).decode()
    assert proof.signature("user-1", PASSWORD, "63", f"{service.public:x}", block, moment) == wanted


def test_a_number_that_would_give_the_password_away_ends_the_sign_in() -> None:
    with pytest.raises(AccessError):
        srp.Proof("us-east-1_pool", 5).key("pool", "user-1", PASSWORD, 1, srp.MODULUS * 2)


def test_two_sign_ins_use_different_numbers() -> None:
    assert srp.Proof.begin("p").public != srp.Proof.begin("p").public


@pytest.mark.parametrize(("seconds", "code"), [(59, "287082"), (1111111109, "081804"), (20000000000, "353130")])
def test_one_time_codes_are_those_of_rfc_6238(seconds: int, code: str) -> None:
    secret = base64.b32encode(b"12345678901234567890").decode()
    assert srp.one_time_code(secret, seconds) == code
    assert srp.one_time_code(f"{secret[:8].lower()} {secret[8:]}", seconds + 0.5) == code


def test_a_secret_that_is_not_base_32_is_told_without_it() -> None:
    with pytest.raises(AccessError) as caught:
        srp.one_time_code("not!base32", 0)
    assert "not!" not in str(caught.value)
