"""What every target owes, see `resettle.connector.Target`."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from resettle.batch import ARROW, Action
from resettle.connector import Source, Target
from resettle.errors import ConfigError, RejectedError, ResettleError
from tests.contract.cases import NOBODY, WEIRD, WEIRD_COLUMN, Place, Row, TargetCase, arrow, keys, plain


def someone(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


ANNA: Row = {
    "id": someone(0),
    "name": "Anna 👩‍👩‍👧",
    "age": 41,
    "born": datetime(1984, 2, 29, 23, 59, 59, 123456, tzinfo=UTC),
    "extra": '{"a": [1, null, "é"]}',
    "email": "",
}
BERT: Row = {"id": someone(1), "name": "", "age": None, "born": None, "extra": None, "email": None}
CARL: Row = {"id": someone(2), "name": "quote \" ' \\ %s\n", "age": -1, "email": "carl@example.org"}
NAMES = ["name", "age", "born", "extra", "email"]


def create(target: Target, dataset: str, *rows: Row) -> None:
    with target.transaction():
        target.write(dataset, arrow(target.schema(dataset), rows), ["id"], Action.CREATE)


def update(target: Target, dataset: str, *rows: Row) -> None:
    with target.transaction():
        target.write(dataset, arrow(target.schema(dataset), rows), ["id"], Action.UPDATE)


def present(target: Target, dataset: str, columns: list[str], *ids: str) -> list[dict[str, Any]]:
    schema = target.schema(dataset)
    return plain(schema, target.fetch(dataset, keys(schema, *ids), columns))


def whole(row: Row) -> dict[str, Any]:
    full = {name: row.get(name) for name in ["id", *NAMES]}
    return full | {"extra": {"a": [1, None, "é"]} if full["extra"] else None}


def refusal(target: Target, dataset: str, *rows: Row, action: Action = Action.CREATE) -> RejectedError:
    """The error of a write that must fail."""
    with pytest.raises(RejectedError) as caught, target.transaction():
        target.write(dataset, arrow(target.schema(dataset), rows), ["id"], action)
    return caught.value


def test_it_is_a_source_and_a_target(target: Target) -> None:
    assert isinstance(target, Source)
    assert isinstance(target, Target)


# -- writing and fetching --------------------------------------------------------------------------


def test_what_is_created_is_fetched_exactly(target: Target) -> None:
    create(target, "people", ANNA, BERT, CARL)
    ids = [ANNA["id"], BERT["id"], CARL["id"]]
    assert present(target, "people", NAMES, *ids) == [whole(ANNA), whole(BERT), whole(CARL)]


def test_fetch_gives_key_and_columns_in_their_arrow_types(target: Target) -> None:
    create(target, "people", ANNA)
    schema = target.schema("people")
    for asked in (keys(schema, ANNA["id"]), keys(schema)):
        found = target.fetch("people", asked, NAMES)
        assert found.column_names == ["id", *NAMES]
        kinds = {column.name: column.kind for column in schema.columns}
        assert [field.type for field in found.schema] == [ARROW[kinds[name]] for name in found.column_names]


def test_fetch_may_ask_for_the_key_alone_or_among_the_columns(target: Target) -> None:
    create(target, "people", ANNA)
    for columns, names in (([], ["id"]), (["id", "name"], ["id", "name"])):
        found = target.fetch("people", keys(target.schema("people"), ANNA["id"]), columns)
        assert (found.num_rows, found.column_names) == (1, names)


def test_fetch_gives_only_present_keys_and_each_once(target: Target) -> None:
    create(target, "people", ANNA, BERT, CARL)
    asked = [NOBODY, ANNA["id"], ANNA["id"], CARL["id"], NOBODY]
    assert [row["id"] for row in present(target, "people", ["name"], *asked)] == [ANNA["id"], CARL["id"]]


def test_a_null_key_fetches_nothing(target: Target) -> None:
    create(target, "people", BERT)
    schema = target.schema("people")
    assert target.fetch("people", keys(schema, None), ["name"]).num_rows == 0
    emails = pa.table({"email": pa.array([None], pa.string())})
    assert target.fetch("people", emails, ["name"]).num_rows == 0


def test_fetch_goes_by_any_columns(target: Target) -> None:
    create(target, "people", ANNA, CARL)
    schema = target.schema("people")
    pairs = [(CARL["name"], -1), (CARL["name"], 41), (ANNA["name"], -1)]  # each value is there, only one pair is
    asked = arrow(schema, [{"name": name, "age": age} for name, age in pairs])
    assert [row["name"] for row in target.fetch("people", asked, []).to_pylist()] == [CARL["name"]]


def test_fetch_with_a_lock_gives_the_same(target: Target) -> None:
    create(target, "people", ANNA)
    asked = keys(target.schema("people"), ANNA["id"])
    with target.transaction():
        locked = target.fetch("people", asked, NAMES, lock=True)
    assert locked == target.fetch("people", asked, NAMES)


def test_many_rows_are_written_and_fetched(target: Target) -> None:
    rows: list[Row] = [{"id": someone(number), "name": f"n{number}", "age": number} for number in range(40_000)]
    create(target, "people", *rows)
    assert target.count("people") in (None, len(rows))
    found = target.fetch("people", keys(target.schema("people"), *(row["id"] for row in rows)), ["age"])
    assert sorted(found["age"].to_pylist()) == list(range(40_000))


def test_empty_batches_are_fine(target: Target) -> None:
    create(target, "people", ANNA)
    schema = target.schema("people")
    nothing = arrow(schema, [ANNA]).slice(0, 0)
    with target.transaction():
        target.write("people", nothing, ["id"], Action.CREATE)
        target.write("people", nothing, ["id"], Action.UPDATE)
        assert target.delete("people", keys(schema)) == 0
    assert target.fetch("people", keys(schema), ["name"]).num_rows == 0
    assert present(target, "people", NAMES, ANNA["id"]) == [whole(ANNA)]


DIGITS = ["12345678901234567890123456789012345678", "0.1000000000000000000000000001", "-5", "12.5"]


@pytest.mark.parametrize(
    ("column", "value"), [*(("balance", digits) for digits in DIGITS), ("name", "a\x00b")], ids=repr
)
def test_a_value_is_kept_exactly_or_refused(target: Target, column: str, value: str) -> None:
    row = {"id": someone(5), "name": "n", column: value}
    said = ""
    try:
        create(target, "people", row)
    except RejectedError as error:
        said = str(error)
    kept = [found[column] for found in present(target, "people", [column], row["id"])]
    assert kept == ([] if said else [value])
    assert value not in said
    assert not said or len(value) > 15 or "\x00" in value


def test_rows_of_one_write_may_point_at_each_other(target: Target) -> None:
    create(target, "pets", {"id": "kitten", "mother": "cat"}, {"id": "cat", "mother": None})
    assert len(present(target, "pets", ["mother"], "kitten", "cat")) == 2


def test_empty_says_whether_there_is_a_row(target: Target) -> None:
    assert target.empty("people")
    create(target, "people", ANNA)
    assert not target.empty("people")


def test_what_is_written_can_be_read(target: Target) -> None:
    rows: list[Row] = [{"id": someone(number), "name": f"n{number}"} for number in range(25)]
    create(target, "people", *rows)
    names = [
        name
        for partition in target.partitions("people", 3)
        for batch in target.read(partition, 10)
        for name in batch.decode(batch.table, ["name"])["name"].to_pylist()
    ]
    assert sorted(names) == sorted(row["name"] for row in rows)


# -- create and update -----------------------------------------------------------------------------


def test_create_never_touches_a_row_that_is_there(target: Target) -> None:
    create(target, "people", ANNA)
    error = refusal(target, "people", BERT, {**ANNA, "name": "someone else", "email": "other"}, CARL)
    assert error.reason == "exists"
    there = present(target, "people", NAMES, ANNA["id"], BERT["id"], CARL["id"])
    assert whole(ANNA) in there
    assert len(there) == 1 or (not target.transactional and there == [whole(ANNA), whole(BERT), whole(CARL)])


def test_create_refuses_a_key_that_comes_twice(target: Target) -> None:
    assert refusal(target, "people", BERT, CARL, BERT).reason == "exists"
    assert target.empty("people")


def test_create_by_a_key_without_a_unique_index_never_makes_a_second_row(target: Target) -> None:
    create(target, "people", ANNA)
    again = arrow(target.schema("people"), [{"id": someone(9), "name": ANNA["name"]}])
    with pytest.raises(RejectedError) as caught, target.transaction():
        target.write("people", again, ["name"], Action.CREATE)
    assert caught.value.reason == "exists"
    assert present(target, "people", [], someone(9)) == []


@pytest.mark.parametrize(
    ("dataset", "row", "reason", "named"),
    [
        ("people", {"id": someone(9), "name": None}, "null", "name"),
        ("people", {"id": someone(9), "age": 1}, "null", "name"),
        ("people", {"id": someone(9), "name": "x", "email": "carl@example.org"}, "unique", "email"),
        ("pets", {"id": "rex", "owner": NOBODY, "mother": None}, "foreign_key", "owner"),
        ("pets", {"id": "rex", "owner": None, "mother": "no such cat"}, "foreign_key", "mother"),
    ],
)
def test_a_refusal_has_a_reason_and_no_values(
    target: Target, target_case: TargetCase, dataset: str, row: Row, reason: str, named: str
) -> None:
    if reason not in target_case.enforces:
        pytest.skip("does not obey this constraint")
    create(target, "people", CARL)
    error = refusal(target, dataset, row)
    assert error.reason == reason
    assert named in error.detail
    said = f"{error} {error.detail} {error.hint}"
    assert not any(str(value) in said for value in row.values() if isinstance(value, str) and value != "x")
    assert present(target, dataset, [], row["id"]) == []


def test_a_write_that_is_refused_writes_none_of_its_rows(target: Target) -> None:
    good = [{"id": someone(number), "name": "good"} for number in range(100, 200)]
    assert refusal(target, "people", *good, {"id": someone(9), "name": None}).reason == "null"
    assert target.empty("people")


def test_update_changes_only_the_named_columns(target: Target) -> None:
    create(target, "people", ANNA, CARL)
    update(target, "people", {"id": ANNA["id"], "age": 42, "email": None})
    expected = [{**whole(ANNA), "age": 42, "email": None}, whole(CARL)]
    assert present(target, "people", NAMES, ANNA["id"], CARL["id"]) == expected


def test_update_makes_no_rows(target: Target) -> None:
    update(target, "people", ANNA)
    assert target.empty("people")


def test_update_obeys_constraints(target: Target, target_case: TargetCase) -> None:
    create(target, "people", ANNA, CARL)
    taken = {"id": ANNA["id"], "email": CARL["email"]}
    if "unique" in target_case.enforces:
        assert refusal(target, "people", taken, action=Action.UPDATE).reason == "unique"
    nameless = {"id": ANNA["id"], "name": None}
    assert refusal(target, "people", nameless, action=Action.UPDATE).reason == "null"
    assert present(target, "people", NAMES, ANNA["id"]) == [whole(ANNA)]


def test_a_write_of_keys_alone_updates_nothing(target: Target) -> None:
    create(target, "people", ANNA)
    update(target, "people", {"id": ANNA["id"]})
    assert present(target, "people", NAMES, ANNA["id"]) == [whole(ANNA)]


# -- transactions ----------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Not even an Exception, as Ctrl-C is."""


@pytest.mark.usefixtures("rolls_back")
@pytest.mark.parametrize("cause", [ValueError, Interrupted])
def test_a_transaction_rolls_back_whole(target: Target, target_case: TargetCase, cause: type[BaseException]) -> None:
    create(target, "people", CARL)
    schema = target.schema("people")
    with pytest.raises(cause), target.transaction():  # noqa: PT012
        target.write("people", arrow(schema, [ANNA, BERT]), ["id"], Action.CREATE)
        target.write("people", arrow(schema, [{"id": CARL["id"], "age": 1}]), ["id"], Action.UPDATE)
        target.write("pets", arrow(target.schema("pets"), [{"id": "rex"}]), ["id"], Action.CREATE)
        assert target.delete("people", keys(schema, BERT["id"])) == int(target_case.sees_its_writes)
        raise cause
    assert present(target, "people", NAMES, ANNA["id"], BERT["id"], CARL["id"]) == [whole(CARL)]
    assert target.empty("pets")
    create(target, "people", ANNA)


@pytest.mark.usefixtures("sees_its_writes", "rolls_back")
def test_a_transaction_sees_its_own_writes_and_nobody_else_does(target: Target) -> None:
    schema = target.schema("people")
    with ThreadPoolExecutor(1) as pool, target.transaction():
        target.write("people", arrow(schema, [ANNA]), ["id"], Action.CREATE)
        assert present(target, "people", ["name"], ANNA["id"])
        assert pool.submit(present, target, "people", ["name"], ANNA["id"]).result(10) == []
    assert present(target, "people", ["name"], ANNA["id"])


def test_a_readonly_transaction_reads_and_refuses_writes(target: Target) -> None:
    create(target, "people", CARL)
    with target.transaction(readonly=True):
        assert present(target, "people", NAMES, CARL["id"]) == [whole(CARL)]
    with pytest.raises(ResettleError), target.transaction(readonly=True):
        target.write("people", arrow(target.schema("people"), [ANNA]), ["id"], Action.CREATE)
    assert present(target, "people", [], ANNA["id"]) == []
    create(target, "people", ANNA)


def test_transactions_of_many_threads_follow_each_other(target: Target) -> None:
    with ThreadPoolExecutor(4) as pool:
        rows: list[Row] = [{"id": someone(number), "name": f"n{number}"} for number in range(12)]
        list(pool.map(lambda row: create(target, "people", row), rows))
    assert len(present(target, "people", [], *(row["id"] for row in rows))) == len(rows)


# -- transactions within transactions --------------------------------------------------------------


def add(target: Target, dataset: str, *rows: Row) -> None:
    """Write into the open transaction."""
    target.write(dataset, arrow(target.schema(dataset), rows), ["id"], Action.CREATE)


def test_a_technology_without_savepoints_refuses_to_nest(target: Target, target_case: TargetCase) -> None:
    if target_case.nests:
        pytest.skip("its transactions nest")
    with pytest.raises(ConfigError), target.transaction(), target.transaction():
        pass


@pytest.mark.usefixtures("nests")
@pytest.mark.parametrize("cause", [ValueError, Interrupted])
def test_an_exception_undoes_only_what_happened_inside_the_nested_transaction(
    target: Target, cause: type[BaseException]
) -> None:
    with target.transaction():
        add(target, "people", ANNA)
        with pytest.raises(cause), target.transaction():  # noqa: PT012
            add(target, "people", BERT)
            add(target, "pets", {"id": "rex", "owner": BERT["id"]})
            target.write("people", arrow(target.schema("people"), [{**ANNA, "age": 1}]), ["id"], Action.UPDATE)
            raise cause
        assert present(target, "people", NAMES, ANNA["id"], BERT["id"]) == [whole(ANNA)]
        assert target.empty("pets")
        with target.transaction():
            add(target, "people", CARL)
    assert present(target, "people", NAMES, ANNA["id"], BERT["id"], CARL["id"]) == [whole(ANNA), whole(CARL)]


@pytest.mark.usefixtures("nests")
def test_a_nested_transaction_ends_with_the_outer_one(target: Target) -> None:
    with pytest.raises(Interrupted), target.transaction():  # noqa: PT012
        with target.transaction():
            with target.transaction():
                add(target, "people", ANNA)
            add(target, "people", BERT)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(present, target, "people", [], ANNA["id"], BERT["id"]).result(10) == []
        raise Interrupted
    assert target.empty("people")
    create(target, "people", ANNA)


@pytest.mark.usefixtures("nests")
def test_the_middle_of_three_transactions_takes_the_innermost_with_it(target: Target) -> None:
    with target.transaction():
        add(target, "people", ANNA)
        with pytest.raises(ValueError), target.transaction():  # noqa: PT012
            with target.transaction():
                add(target, "people", BERT)
            raise ValueError
        with target.transaction(), pytest.raises(ValueError), target.transaction():  # noqa: PT012
            add(target, "people", CARL)
            raise ValueError
    assert [row["id"] for row in present(target, "people", [], *(someone(n) for n in range(3)))] == [ANNA["id"]]


@pytest.mark.usefixtures("nests")
def test_after_a_refusal_in_a_nested_transaction_the_outer_one_goes_on(target: Target) -> None:
    with target.transaction():
        add(target, "people", ANNA)
        assert refusal(target, "people", BERT, ANNA).reason == "exists"
        assert refusal(target, "people", {"id": someone(9), "name": None}).reason == "null"
        assert refusal(target, "pets", {"id": "rex", "owner": NOBODY}).reason == "foreign_key"
        assert present(target, "people", [], BERT["id"], someone(9)) == []
        create(target, "people", BERT)
    assert len(present(target, "people", [], ANNA["id"], BERT["id"])) == 2


@pytest.mark.usefixtures("nests")
def test_every_read_in_the_outer_transaction_sees_the_writes_of_the_nested_one(target: Target) -> None:
    with pytest.raises(Interrupted), target.transaction():  # noqa: PT012
        create(target, "people", ANNA)
        assert present(target, "people", NAMES, ANNA["id"]) == [whole(ANNA)]
        assert not target.empty("people")
        assert target.count("people") == 1
        assert target.ask("select count(*) from people") == [(1,)]
        with target.transaction(), pytest.raises(ResettleError):
            target.ask("delete from people")
        assert target.count("people") == 1
        raise Interrupted
    assert target.count("people") == 0


@pytest.mark.usefixtures("nests")
def test_a_readonly_transaction_within_another_is_just_a_scope(target: Target) -> None:
    with target.transaction():
        add(target, "people", ANNA)
        with target.transaction(readonly=True):
            assert present(target, "people", NAMES, ANNA["id"]) == [whole(ANNA)]
        with pytest.raises(ValueError), target.transaction(readonly=True):
            raise ValueError
        add(target, "people", BERT)
    assert len(present(target, "people", [], ANNA["id"], BERT["id"])) == 2


@pytest.mark.usefixtures("nests")
def test_within_a_readonly_transaction_none_may_write(target: Target) -> None:
    with pytest.raises(ResettleError), target.transaction(readonly=True), target.transaction():
        add(target, "people", ANNA)
    assert target.empty("people")
    create(target, "people", ANNA)


@pytest.mark.usefixtures("nests")
def test_refusals_are_found_in_a_nested_transaction(target: Target) -> None:
    with target.transaction():
        create(target, "people", CARL)
        writes, units = unit_writes(target)
        for _ in range(2):
            with target.transaction():
                found = target.refusals(writes, units)
            assert found is None or {row["unit"]: row["reason"] for row in found.to_pylist()} == REFUSED
        create(target, "people", ANNA)
    assert target.count("people") == 2
    assert target.empty("pets")


# -- refusals --------------------------------------------------------------------------------------


def unit_writes(target: Target) -> tuple[list[Any], list[pa.Array]]:
    """Units u1 to u6: u2 has no name, u4's pet has no owner, u5's email is taken by u1, u6 exists."""
    people: list[Row] = [
        {"id": someone(1), "name": "one", "email": "1"},
        {"id": someone(2), "name": None, "email": None},
        {"id": someone(3), "name": "three", "email": None},
        {"id": someone(4), "name": "four", "email": None},
        {"id": someone(5), "name": "five", "email": "1"},
        {"id": CARL["id"], "name": "six", "email": None},
    ]
    pets: list[Row] = [
        {"id": "a", "owner": someone(3), "mother": None},
        {"id": "b", "owner": someone(3), "mother": "a"},
        {"id": "c", "owner": NOBODY, "mother": None},
    ]
    writes = [
        ("people", arrow(target.schema("people"), people), ["id"], Action.CREATE),
        ("pets", arrow(target.schema("pets"), pets), ["id"], Action.CREATE),
    ]
    return writes, [pa.array([f"u{number}" for number in range(1, 7)]), pa.array(["u3", "u3", "u4"])]


CARL_AS_SIX = {**CARL, "id": someone(6)}
REFUSED = {"u2": "null", "u4": "foreign_key", "u5": "unique", "u6": "exists"}


@pytest.fixture
def refused(target_case: TargetCase) -> dict[str, str]:
    """Of `REFUSED` what this technology refuses."""
    return {unit: reason for unit, reason in REFUSED.items() if reason in target_case.enforces}


def test_refusals_name_exactly_the_bad_units(target: Target, refused: dict[str, str]) -> None:
    create(target, "people", CARL)
    writes, units = unit_writes(target)
    found = target.refusals(writes, units)
    if found is None:
        return
    assert set(found.column_names) == {"unit", "reason", "detail"}
    assert {row["unit"]: row["reason"] for row in found.to_pylist()} == refused
    assert not any(text in str(found["detail"].to_pylist()) for text in (NOBODY, CARL["id"], "four"))


def test_refusals_leave_no_trace(target: Target) -> None:
    create(target, "people", CARL)
    writes, units = unit_writes(target)
    target.refusals(writes, units)
    assert present(target, "people", [], *(someone(number) for number in range(1, 6))) == [{"id": CARL["id"]}]
    assert target.empty("pets")
    with target.transaction():
        target.refusals(writes, units)
    assert target.empty("pets")
    assert present(target, "people", NAMES, CARL["id"]) == [whole(CARL)]


def test_what_refusals_left_over_can_be_written(target: Target, refused: dict[str, str]) -> None:
    create(target, "people", CARL)
    writes, units = unit_writes(target)
    with target.transaction():
        found = target.refusals(writes, units)
        bad = pa.array(refused) if found is None else found["unit"].combine_chunks()
        for (dataset, rows, key, action), unit in zip(writes, units, strict=True):
            good = pa.array([one not in bad.to_pylist() for one in unit.to_pylist()])
            target.write(dataset, rows.filter(good), key, action)
    written = {f"u{number}" for number in range(1, 6)} - refused.keys()
    there = present(target, "people", [], *(someone(number) for number in range(1, 6)))
    assert len(there) == len(written) + 1  # Carl has the id of u2
    pets = ["a", "b"] if "u4" in refused else ["a", "b", "c"]
    assert [row["id"] for row in present(target, "pets", [], "a", "b", "c")] == pets


@pytest.mark.usefixtures("links")
def test_a_unit_that_points_at_a_later_one_is_not_refused(target: Target) -> None:
    pets = [{"id": "kitten", "mother": "cat"}, {"id": "cat"}, {"id": "stray", "mother": "no such cat"}]
    rows = arrow(target.schema("pets"), pets)
    found = target.refusals([("pets", rows, ["id"], Action.CREATE)], [pa.array(["u1", "u2", "u3"])])
    assert found is None or found["unit"].to_pylist() == ["u3"]


def test_refusals_of_good_units_are_none(target: Target) -> None:
    rows = arrow(target.schema("people"), [ANNA, BERT])
    found = target.refusals([("people", rows, ["id"], Action.CREATE)], [pa.array(["a", "b"])])
    assert found is None or found.num_rows == 0
    assert target.empty("people")


# -- the rest --------------------------------------------------------------------------------------


def test_delete_counts_what_was_there(target: Target) -> None:
    create(target, "people", ANNA, BERT, CARL)
    schema = target.schema("people")
    with target.transaction():
        assert target.delete("people", keys(schema, ANNA["id"], ANNA["id"], NOBODY, None)) == 1
    assert present(target, "people", [], ANNA["id"], CARL["id"]) == [{"id": CARL["id"]}]
    with target.transaction():
        assert target.delete("people", keys(schema, ANNA["id"])) == 0


@pytest.mark.usefixtures("links")
def test_delete_refuses_a_row_that_others_point_at(target: Target) -> None:
    create(target, "people", ANNA)
    create(target, "pets", {"id": "rex", "owner": ANNA["id"]})
    with pytest.raises(RejectedError) as caught, target.transaction():
        target.delete("people", keys(target.schema("people"), ANNA["id"]))
    assert caught.value.reason == "foreign_key"
    assert present(target, "people", NAMES, ANNA["id"]) == [whole(ANNA)]


@pytest.mark.usefixtures("links")
def test_orphans_are_counted_by_constraint(target: Target, target_case: TargetCase, place: Place) -> None:
    create(target, "people", ANNA)
    create(target, "pets", {"id": "rex", "owner": ANNA["id"]}, {"id": "stray", "owner": None})
    assert not sum(target.orphans("pets")["count"].to_pylist())
    target_case.orphan(place, target)
    found = target.orphans("pets").to_pylist()
    assert [row for row in found if row["count"]] == [{"constraint": "pets_owner_fkey", "count": 1}]
    assert target.orphans("people").column_names == ["constraint", "count"]


def test_what_cannot_be_asked_in_sql_says_so(target: Target, target_case: TargetCase) -> None:
    if not target_case.speaks_sql:
        with pytest.raises(ConfigError):
            target.ask("select 1")


@pytest.mark.usefixtures("speaks_sql")
def test_ask_answers_and_never_writes(target: Target) -> None:
    create(target, "people", ANNA)
    assert target.ask("select count(*), min(name) from people") == [(1, ANNA["name"])]
    for statement in (
        "delete from people",
        "update people set age = 1",
        "drop table pets",
        "select nonsense",
    ):
        with pytest.raises(ResettleError):
            target.ask(statement)
    assert present(target, "people", NAMES, ANNA["id"]) == [whole(ANNA)]
    assert target.empty("pets")
    create(target, "people", BERT)


@pytest.mark.usefixtures("speaks_sql")
def test_ask_never_writes_inside_a_transaction_either(target: Target) -> None:
    create(target, "people", ANNA)
    with pytest.raises(ResettleError), target.transaction():
        target.ask("update people set age = 1")
    assert present(target, "people", NAMES, ANNA["id"]) == [whole(ANNA)]


@pytest.mark.usefixtures("sees_its_writes", "speaks_sql")
def test_ask_inside_a_transaction_sees_its_writes(target: Target) -> None:
    schema = target.schema("people")
    with target.transaction():
        target.write("people", arrow(schema, [ANNA]), ["id"], Action.CREATE)
        assert target.ask("select count(*) from people") == [(1,)]
        target.write("people", arrow(schema, [BERT]), ["id"], Action.CREATE)
    assert len(present(target, "people", [], ANNA["id"], BERT["id"])) == 2


def test_names_with_quotes_are_only_names(target: Target, target_case: TargetCase) -> None:
    if not target_case.free_names:
        pytest.skip("has no such names")
    create(target, "people", ANNA)
    assert WEIRD in target.datasets()
    assert target.schema(WEIRD).names == ("id", WEIRD_COLUMN)
    create(target, WEIRD, {"id": "a", WEIRD_COLUMN: "1"}, {"id": "b", WEIRD_COLUMN: "2"})
    update(target, WEIRD, {"id": "a", WEIRD_COLUMN: "3"})
    assert refusal(target, WEIRD, {"id": "a", WEIRD_COLUMN: "4"}).reason == "exists"
    by_column = pa.table({WEIRD_COLUMN: pa.array(["3"])})
    assert target.fetch(WEIRD, by_column, ["id"]).to_pylist() == [{WEIRD_COLUMN: "3", "id": "a"}]
    assert not target.empty(WEIRD)
    assert sum(len(b) for part in target.partitions(WEIRD, 2) for b in target.read(part, 1)) == 2
    with target.transaction():
        assert target.delete(WEIRD, by_column) == 1
    assert target.orphans(WEIRD).num_rows == 0
    rows = arrow(target.schema(WEIRD), [{"id": "b"}, {"id": "c"}])
    found = target.refusals([(WEIRD, rows, ["id"], Action.CREATE)], [pa.array(["u", "v"])])
    assert found is None or found["unit"].to_pylist() == ["u"]
    assert present(target, "people", NAMES, ANNA["id"]) == [whole(ANNA)]


def test_an_unknown_column_is_an_error(target: Target) -> None:
    with pytest.raises(ResettleError):
        target.fetch("people", keys(target.schema("people"), NOBODY), ['name" from people; --'])


def test_an_unknown_dataset_is_a_config_error(target: Target) -> None:
    with pytest.raises(ConfigError):
        target.schema("peple")


def test_the_schema_tells_the_constraints(target: Target, target_case: TargetCase) -> None:
    people, pets = target.schema("people"), target.schema("pets")
    assert people.key == ("id",)
    assert people.unique == ((("email",),) if "unique" in target_case.enforces else ())
    name, age = people.column("name"), people.column("age")
    assert name is not None
    assert age is not None
    assert (name.nullable, age.nullable) == (False, True)
    links = {(fk.columns, fk.target, fk.target_columns) for fk in pets.foreign_keys}
    known = {(("owner",), "people", ("id",)), (("mother",), "pets", ("id",))}
    assert links == (known if "foreign_key" in target_case.enforces else set())
    assert people.privileges >= {"select", "insert", "update"}


def test_closing_twice_is_harmless(target: Target) -> None:
    create(target, "people", ANNA)
    target.close()
    target.close()
