"""Amplify's own AppSync simulator: the stand-in answers as it does, and the connector reads from it and writes to it.

The simulator runs the templates that Amplify deploys, made of the sandbox's schema, over dynalite.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import urllib3

from resettle.batch import Action
from resettle.connectors.appsync import AppSync, AppSyncSettings
from resettle.errors import AccessError, RejectedError
from resettle.sandbox.appsync import API_KEY, start_appsync
from tests.extended import parts

pytestmark = pytest.mark.extended

SCRIPTS = Path(__file__).parent / "appsync"
MIGRATION = Path(__file__).parents[2] / "migrations" / "amplify-media-migrator"
RULE = "@model @auth(rules: [{allow: public, provider: apiKey}]) {"
SCHEMA = (MIGRATION / "sandbox" / "schema.graphql").read_text().replace("@model {", RULE)
"""Without a rule Amplify's own templates let nobody in."""
CONDITION = "DynamoDB:ConditionalCheckFailedException"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL."""
    folder = tmp_path_factory.mktemp("appsync")
    node = parts.node()
    transformer = parts.part("transformer/node_modules/@aws-amplify", "Amplify's transformer").parents[1]
    simulator = parts.part("appsync/node_modules/@aws-amplify", "Amplify's simulator").parents[1]
    made = folder / "made.json"
    schema = folder / "schema.graphql"
    schema.write_text(SCHEMA)
    subprocess.run([node, SCRIPTS / "transform.js", schema, made], cwd=transformer, check=True, capture_output=True)
    database, port = parts.port(), parts.port()
    endpoint, url = f"http://127.0.0.1:{database}", f"http://127.0.0.1:{port}/graphql"
    dynalite = [node, "node_modules/dynalite/cli.js", "--host", "127.0.0.1", "--port", str(database)]
    dynalite += ["--createTableMs", "0"]
    serve = [node, SCRIPTS / "serve.js", made, str(port), endpoint, API_KEY]
    keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}

    def listening() -> None:
        urllib3.request("GET", endpoint, retries=False)

    def answering() -> None:
        assert asked(url, "{ listMedia { items { id } } }")["data"]["listMedia"]

    with (
        parts.running(dynalite, folder / "dynalite.log", listening, cwd=simulator),
        parts.running(serve, folder / "log", answering, cwd=simulator, environment=os.environ | keys),
    ):
        yield url


@pytest.fixture(scope="module")
def stand_in() -> Iterator[str]:
    with start_appsync(SCHEMA) as local:
        yield local.url


@pytest.fixture(scope="module")
def both(simulator: str, stand_in: str) -> tuple[str, str]:
    return simulator, stand_in


def answer(url: str, query: str, variables: Mapping[str, Any] | None = None, key: str = API_KEY) -> tuple[int, Any]:
    body = {"query": query, "variables": variables or {}}
    found = urllib3.request("POST", url, json=body, headers={"x-api-key": key}, retries=False)
    return found.status, found.json()


def asked(url: str, query: str, variables: Mapping[str, Any] | None = None) -> Any:
    status, said = answer(url, query, variables)
    assert status == 200
    return said


CREATE = "mutation ($input: CreateMediaInput!) { createMedia(input: $input) { id url type isAvailableForPublicUse } }"


def media(identity: str, **more: Any) -> dict[str, Any]:
    url = f"https://bucket.example/{identity}.jpg"
    return {
        "id": identity, "url": url, "type": "PHOTO", "observationId": "o1", "isAvailableForPublicUse": False, **more
    }  # fmt: skip


def create(url: str, *inputs: Mapping[str, Any], model: str = "Media") -> None:
    """In a few requests of many mutations each."""
    for start in range(0, len(inputs), 25):
        some = inputs[start : start + 25]
        names = ", ".join(f"$i{at}: Create{model}Input!" for at in range(len(some)))
        calls = " ".join(f"c{at}: create{model}(input: $i{at}) {{ id }}" for at in range(len(some)))
        said = asked(url, f"mutation ({names}) {{ {calls} }}", {f"i{at}": one for at, one in enumerate(some)})
        assert "errors" not in said


def pages(url: str, field: str, arguments: str) -> list[list[str]]:
    """The ids of every page of a listing, to the end."""
    found: list[list[str]] = []
    token: str | None = None
    while True:
        query = f"query ($token: String) {{ {field}({arguments}, nextToken: $token) {{ items {{ id }} nextToken }} }}"
        page = asked(url, query, {"token": token})["data"][field]
        found.append([one["id"] for one in page["items"]])
        token = page["nextToken"]
        if token is None:
            return found


def told(said: Mapping[str, Any]) -> Any:
    """What an answer says, without the service's own words and request numbers."""
    errors = [(one.get("errorType"), one.get("path")) for one in said.get("errors", [])]
    return said.get("data"), errors


# -- the stand-in beside the simulator -------------------------------------------------------------


def test_a_listing_limits_first_and_filters_then(both: tuple[str, str]) -> None:
    ids = [f"page-{number}" for number in range(250)]
    for url in both:
        create(url, *(media(one, observationId="pages") for one in ids))
        every = pages(url, "listMedia", "limit: 100")
        assert {one for page in every for one in page} >= set(ids)
        assert all(len(page) == 100 for page in every[:-1])
        filtered = pages(url, "listMedia", 'filter: {id: {eq: "page-77"}}, limit: 100')
        assert len(filtered) == len(every)
        assert sorted(len(page) for page in filtered) == [0] * (len(every) - 1) + [1]
        by_default = pages(url, "listMedia", 'filter: {observationId: {eq: "pages"}}')
        assert len(by_default) == len(every)


def test_a_query_by_an_index_is_exact_at_once(both: tuple[str, str]) -> None:
    for url in both:
        create(url, *({"id": f"o{n}", "sequentialId": n} for n in range(300)), model="Observation")
        create(url, {"id": "again", "sequentialId": 7}, model="Observation")
        found = pages(url, "listObservationBySequentialId", "sequentialId: 7")
        assert [sorted(page) for page in found] == [["again", "o7"]]
        assert pages(url, "listObservationBySequentialId", "sequentialId: 999") == [[]]


def test_what_is_created_twice_is_refused_with_http_200_and_kept_as_it_was(both: tuple[str, str]) -> None:
    said = []
    for url in both:
        first = asked(url, CREATE, {"input": media("twice")})
        second = asked(url, CREATE, {"input": media("twice", type="VIDEO")})
        kept = asked(url, '{ getMedia(id: "twice") { id type } }')
        said.append([told(first), told(second), told(kept)])
    assert said[0] == said[1]
    assert said[1][1] == ({"createMedia": None}, [(CONDITION, ["createMedia"])])


@pytest.mark.parametrize("verb", ["update", "delete"])
def test_what_is_not_there_can_be_neither_changed_nor_deleted(both: tuple[str, str], verb: str) -> None:
    name = f"{verb}Media"
    query = f"mutation ($input: {verb.capitalize()}MediaInput!) {{ {name}(input: $input) {{ id }} }}"
    said = [told(asked(url, query, {"input": {"id": "nowhere"}})) for url in both]
    assert said[0] == said[1] == ({name: None}, [(CONDITION, [name])])


def test_of_several_mutations_one_may_fail_alone(both: tuple[str, str]) -> None:
    query = "mutation ($a: CreateMediaInput!, $b: CreateMediaInput!) "
    query += "{ a: createMedia(input: $a) { id } b: createMedia(input: $b) { id } }"
    said = []
    for url in both:
        create(url, media("alone"))
        said.append(told(asked(url, query, {"a": media("alone"), "b": media("other")})))
    assert said[0] == said[1] == ({"a": None, "b": {"id": "other"}}, [(CONDITION, ["a"])])


@pytest.mark.parametrize(
    "wrong",
    [{"url": "no url"}, {"type": "PAINTING"}, {"isAvailableForPublicUse": None}, {"observationId": None}, {"odd": 1}],
    ids=str,
)
def test_a_value_that_the_schema_does_not_allow_creates_nothing(both: tuple[str, str], wrong: dict[str, Any]) -> None:
    for url in both:
        status, said = answer(url, CREATE, {"input": media("wrong", **wrong)})
        assert status == 200
        assert said["errors"]
        assert not (said.get("data") or {}).get("createMedia")
        assert asked(url, '{ getMedia(id: "wrong") { id } }')["data"] == {"getMedia": None}


def test_relations_are_followed_both_ways(both: tuple[str, str]) -> None:
    query = '{ getObservation(id: "many") { media(limit: 50) { items { id } nextToken } }'
    query += ' getMedia(id: "many-3") { observation { id sequentialId } } }'
    said = []
    for url in both:
        create(url, {"id": "many", "sequentialId": 5000}, model="Observation")
        create(url, *(media(f"many-{n}", observationId="many") for n in range(20)))
        data = asked(url, query)["data"]
        data["getObservation"]["media"]["items"].sort(key=lambda one: one["id"])
        said.append(data)
    assert said[0] == said[1]
    assert len(said[0]["getObservation"]["media"]["items"]) == 20
    assert said[0]["getMedia"]["observation"] == {"id": "many", "sequentialId": 5000}


def test_a_wrong_key_is_http_401(both: tuple[str, str]) -> None:
    assert [answer(url, "{ listMedia { items { id } } }", key="da2-wrong")[0] for url in both] == [401, 401]


# -- the connector against the simulator -----------------------------------------------------------


@pytest.fixture
def appsync(simulator: str) -> Iterator[AppSync]:
    made = AppSync("app", AppSyncSettings(url=simulator, api_key=API_KEY))
    yield made
    made.close()


def rows(appsync: AppSync, dataset: str) -> dict[str, dict[str, Any]]:
    names = list(appsync.schema(dataset).names)
    read = [batch for part in appsync.partitions(dataset, 1) for batch in appsync.read(part, 100)]
    return {row["id"]: row for batch in read for row in batch.decode(batch.table, names).to_pylist()}


def test_the_connector_finds_the_models_of_a_real_introspection(appsync: AppSync) -> None:
    with start_appsync(SCHEMA) as local:
        other = AppSync("app", AppSyncSettings(**local.settings()))
        assert set(appsync.datasets()) == set(other.datasets()) == {"Media", "Observation"}
        for dataset in ("Media", "Observation"):
            found, wanted = appsync.schema(dataset), other.schema(dataset)
            assert found.key == wanted.key
            assert {c.name: (c.kind, c.nullable, c.choices) for c in found.columns} == {
                c.name: (c.kind, c.nullable, c.choices) for c in wanted.columns
            }
        other.close()


def test_the_connector_creates_reads_changes_and_deletes(appsync: AppSync) -> None:
    made = pa.Table.from_pylist([media(f"ours-{n}", observationId="ours") for n in range(130)])
    appsync.write("Media", made, ["id"], Action.CREATE)
    found = rows(appsync, "Media")
    for row in made.to_pylist():
        assert row.items() <= found[row["id"]].items()
    keys = made.select(["id"])
    assert appsync.fetch("Media", keys, ["url"]).num_rows == 130
    change = pa.table({"id": ["ours-1"], "type": ["VIDEO"]})
    appsync.write("Media", change, ["id"], Action.UPDATE)
    assert appsync.fetch("Media", change.select(["id"]), ["type"])["type"].to_pylist() == ["VIDEO"]
    assert appsync.delete("Media", keys.slice(0, 10)) == 10
    assert appsync.fetch("Media", keys, ["url"]).num_rows == 120


def test_the_connector_refuses_what_is_there_already(appsync: AppSync) -> None:
    appsync.write("Media", pa.Table.from_pylist([media("mine")]), ["id"], Action.CREATE)
    other = pa.Table.from_pylist([media("mine", type="VIDEO")])
    with pytest.raises(RejectedError) as caught:
        appsync.write("Media", other, ["id"], Action.CREATE)
    assert caught.value.reason == "exists"
    assert rows(appsync, "Media")["mine"]["type"] == "PHOTO"


def test_the_connector_finds_rows_by_an_index(appsync: AppSync) -> None:
    made = pa.Table.from_pylist([{"id": f"seq-{n}", "sequentialId": 90_000 + n // 2} for n in range(20)])
    appsync.write("Observation", made, ["id"], Action.CREATE)
    wanted = pa.table({"sequentialId": pa.array([90_003, 99_999], pa.int32())})
    found = appsync.fetch("Observation", wanted, ["id"])
    assert sorted(found["id"].to_pylist()) == ["seq-6", "seq-7"]


def test_a_wrong_key_is_an_access_error(simulator: str) -> None:
    with pytest.raises(AccessError):
        AppSync("app", AppSyncSettings(url=simulator, api_key="da2-wrong")).datasets()
