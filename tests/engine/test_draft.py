"""A draft pairs what belongs together, proposes what the kinds allow, and marks what it cannot know."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from resettle.batch import Column, ForeignKey, Kind, Schema
from resettle.connectors.memory import Memory
from resettle.engine.drafting.alike import folded, likeness, slug, without
from resettle.engine.drafting.draft import Draft, DraftedFlow, Mapped, draft, draft_between
from resettle.engine.drafting.pairing import pair
from resettle.engine.drafting.propose import propose, reference
from resettle.engine.drafting.survey import Seen, Side
from resettle.errors import ConfigError

TEXT, INT, UUID, INSTANT = Kind.TEXT, Kind.INT64, Kind.UUID, Kind.INSTANT


def table(name: str, key: str = "", /, *, points: Mapping[str, str] | None = None, **columns: Kind | Column) -> Schema:
    """A dataset: columns by name and kind, its key, and foreign keys as column: "dataset.column"."""
    made = tuple(
        kind if isinstance(kind, Column) else Column(column, kind, nullable=column != key)
        for column, kind in columns.items()
    )
    keys = [(column, *target.split(".")) for column, target in (points or {}).items()]
    foreign = tuple(ForeignKey(f"{name}_{c}", (c,), target, (of,)) for c, target, of in keys)
    return Schema(name, made, (key,) if key else (), foreign_keys=foreign)


def side(connection: str, *schemas: Schema) -> Side:
    return Side(connection, {schema.dataset: schema for schema in schemas})


def drafted(
    old: list[Schema], new: list[Schema], seen: Mapping[str, Mapping[str, Seen]] | None = None, **chosen: str
) -> Draft:
    return draft(pair(side("old", *old), side("new", *new), chosen), seen or {})


def flow_of(made: Draft, name: str) -> DraftedFlow:
    return next(flow for flow in made.flows if flow.name == name)


def columns_of(made: Draft, name: str) -> dict[str, Mapped]:
    return {mapped.column: mapped for mapped in flow_of(made, name).columns}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("createdAt", "created_at"),
        ("UserProfiles", "user_profile"),
        ("categories", "Category"),
        ("URLPath", "url_path"),
        ("userIDs", "user_ids"),
        ("video-sessions", "videoSession"),
        ("addresses", "address"),
    ],
)
def test_names_that_differ_in_spelling_only_are_the_same(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("status", "state"), ("created_by", "created_at"), ("first_name", "last_name"), ("city", "cite"), ("id", "uid")],
)
def test_names_of_other_things_are_not_taken_for_each_other(one: str, other: str) -> None:
    assert folded(one) != folded(other)
    assert likeness(one, other) < 0.85


def test_a_column_that_repeats_its_tables_name_is_known_without_it() -> None:
    assert without("authorId", "authors") == "id"
    assert without("session_start", "video_sessions") == "start"
    assert without("author", "authors") == "author"


def test_a_flows_name_is_one_that_a_declaration_allows_and_nobody_has() -> None:
    assert slug("auth.users") == "auth_users"
    assert slug("2fa") == "_2fa"
    assert slug("users", ["users", "users_2"]) == "users_3"


def test_datasets_pair_by_name_before_anything_else() -> None:
    old = [table("Users", "id", id=TEXT, email=TEXT), table("Members", "id", id=TEXT, name=TEXT, born=TEXT)]
    new = [table("users", "id", id=TEXT, name=TEXT, born=TEXT), table("groups", "id", id=TEXT, motto=TEXT)]
    pairs = pair(side("old", *old), side("new", *new))
    assert [(one.source.dataset, one.target.dataset, one.doubt) for one in pairs.pairs] == [("Users", "users", None)]
    assert (set(pairs.unpaired_source), set(pairs.unpaired_target)) == ({"Members"}, {"groups"})


def test_a_renamed_dataset_pairs_by_its_columns_and_is_marked() -> None:
    columns = {"id": TEXT, "fullName": TEXT, "createdAt": INT, "email": TEXT}
    old = [table("Customer", "id", **columns), table("Log", "id", id=TEXT, line=TEXT)]
    new = [table("clients", "id", id=TEXT, full_name=TEXT, created_at=INSTANT, email=TEXT, tenant=TEXT)]
    (one,) = pair(side("old", *old), side("new", *new)).pairs
    assert (one.source.dataset, one.target.dataset) == ("Customer", "clients")
    assert one.doubt
    assert "is `Customer` what becomes `clients`?" in one.doubt


def test_what_two_tables_share_with_everyone_does_not_pair_them() -> None:
    old = [table("languages", "id", id=TEXT, name=TEXT, created_at=TEXT)]
    new = [table("tags", "id", id=TEXT, name=TEXT, colour=TEXT)]
    pairs = pair(side("old", *old), side("new", *new))
    assert pairs.pairs == ()


def test_a_pair_may_be_chosen_by_hand_and_must_exist() -> None:
    old, new = side("old", table("a", "id", id=TEXT)), side("new", table("z", "id", id=TEXT))
    (one,) = pair(old, new, {"a": "z"}).pairs
    assert (one.source.dataset, one.target.dataset, one.doubt) == ("a", "z", None)
    with pytest.raises(ConfigError, match="new has no dataset `zz`") as refused:
        pair(old, new, {"a": "zz"})
    assert refused.value.hint == "did you mean `z`?"


def test_columns_are_carried_under_their_new_names_and_the_unit_is_the_key() -> None:
    made = drafted(
        [table("Users", "userId", userId=TEXT, fullName=TEXT, legacy=TEXT)],
        [table("users", "id", id=TEXT, full_name=TEXT, seen_at=INSTANT)],
    )
    flow = flow_of(made, "users")
    assert {mapped.column: mapped.form for mapped in flow.columns} == {"id": "userId", "full_name": "fullName"}
    assert (flow.unit, flow.unit_doubt) == (("userId",), None)
    assert (flow.not_carried, flow.not_written) == (("legacy",), ("seen_at",))


def test_a_required_column_without_a_source_is_left_open_and_a_default_is_left_to_the_target() -> None:
    target = table(
        "users",
        "id",
        id=TEXT,
        tenant=Column("tenant", TEXT, nullable=False),
        role=Column("role", TEXT, nullable=False, has_default=True),
    )
    made = drafted([table("users", "id", id=TEXT)], [target])
    tenant = columns_of(made, "users")["tenant"]
    assert (tenant.form, bool(tenant.doubt)) == ("todo('no source')", True)
    assert flow_of(made, "users").not_written == ("role",)


def test_a_foreign_key_follows_new_ids_by_a_reference_and_old_ones_as_they_are() -> None:
    old = [
        table("people", "id", id=TEXT),
        table("pets", "id", points={"owner": "people.id"}, id=TEXT, owner=TEXT),
    ]
    seen = {
        "people": {"id": Seen({"text": 3}, 3)},
        "pets": {"id": Seen({"text": 2}), "owner": Seen({"text": 2})},
    }
    target = table("pets", "id", points={"keeper_id": "people.id"}, id=TEXT, keeper_id=UUID)
    made = drafted(old, [target, table("people", "id", id=UUID)], seen)
    assert [flow.name for flow in made.flows] == ["people", "pets"]
    assert columns_of(made, "people")["id"].form == {"mint": "uuid"}
    assert columns_of(made, "pets")["keeper_id"].form == {"ref": "people", "on": "owner"}
    kept = table("pets", "id", points={"keeper_id": "people.id"}, id=TEXT, keeper_id=TEXT)
    made = drafted(old, [kept, table("people", "id", id=TEXT)], seen)
    assert columns_of(made, "pets")["keeper_id"].form == "owner"


def test_a_key_that_is_a_uuid_on_both_sides_is_carried_over() -> None:
    seen = {"people": {"id": Seen({"uuid": 3}, 3)}}
    made = drafted([table("people", "id", id=TEXT)], [table("people", "id", id=UUID)], seen)
    assert columns_of(made, "people")["id"] == Mapped("id", "id")


def test_a_table_that_points_at_its_own_new_ids_is_left_open() -> None:
    seen = {"nodes": {"id": Seen({"text": 3}, 3), "parent_id": Seen({"text": 2})}}
    old = [table("nodes", "id", points={"parent_id": "nodes.id"}, id=TEXT, parent_id=TEXT)]
    new = [table("nodes", "id", points={"parent_id": "nodes.id"}, id=UUID, parent_id=UUID)]
    parent = columns_of(drafted(old, new, seen), "nodes")["parent_id"]
    assert str(parent.form).startswith("todo(")


def test_what_points_at_a_table_that_nothing_fills_is_marked() -> None:
    old = [table("pets", "id", id=TEXT, owner=TEXT)]
    new = [table("pets", "id", points={"owner": "people.id"}, id=TEXT, owner=TEXT), table("people", "id", id=TEXT)]
    assert "points at people, which no flow here fills" in str(columns_of(drafted(old, new), "pets")["owner"].doubt)


def test_flows_in_a_circle_are_all_there_and_one_is_marked() -> None:
    tables = [
        table("a", "id", points={"b_id": "b.id"}, id=TEXT, b_id=TEXT),
        table("b", "id", points={"a_id": "a.id"}, id=TEXT, a_id=TEXT),
        table("c", "id", points={"a_id": "a.id"}, id=TEXT, a_id=TEXT),
    ]
    made = drafted(tables, tables)
    assert {flow.name for flow in made.flows} == {"a", "b", "c"}
    assert sum(flow.order_doubt is not None for flow in made.flows) == 1


def test_a_target_that_numbers_its_rows_is_matched_by_its_natural_key() -> None:
    target = Schema(
        "tags",
        (Column("id", INT, nullable=False, has_default=True), Column("slug", TEXT, nullable=False)),
        ("id",),
        unique=(("slug",),),
    )
    seen = {"tags": {"id": Seen({"uuid": 2}, 2), "slug": Seen({"text": 2}, 2)}}
    made = drafted([table("tags", "id", id=UUID, slug=TEXT)], [target], seen)
    flow = flow_of(made, "tags")
    assert (flow.by, flow.names, [mapped.column for mapped in flow.columns]) == ("match", ("slug",), ["slug"])
    assert flow.by_doubt


def test_without_a_key_the_unit_is_a_column_that_tells_records_apart_or_left_open() -> None:
    seen = {"people": {"name": Seen({"text": 3}, 3), "isbn_code": Seen({"text": 3}, 3)}}
    new = [table("people", "name", name=TEXT)]
    flow = flow_of(drafted([table("people", name=TEXT, isbn_code=TEXT)], new, seen), "people")
    assert flow.unit == ("isbn_code",)
    assert "unique in the first 3 records" in str(flow.unit_doubt)
    twice = {"people": {"isbn_code": Seen({"text": 20}, 19)}}
    flow = flow_of(drafted([table("people", name=TEXT, isbn_code=TEXT)], new, twice), "people")
    assert flow.unit == ("isbn_code",)
    assert "19 different values in the first 20 records" in str(flow.unit_doubt)
    flow = flow_of(drafted([table("people", name=TEXT)], new), "people")
    assert flow.unit[0].startswith("todo(")


MS, S = Seen({"number like epoch milliseconds": 5}), Seen({"number like epoch seconds": 5})


@pytest.mark.parametrize(
    ("source", "seen", "target", "expression", "doubtful"),
    [
        (INT, MS, INSTANT, "instant(x, 'ms')", True),
        (INT, S, INSTANT, "instant(x, 's')", True),
        (TEXT, S, INSTANT, "instant(x, 's')", True),
        (TEXT, Seen({"date or instant": 2, "null": 1}), INSTANT, "x", False),
        (TEXT, Seen({"date or instant": 2, "empty": 1}), INSTANT, "instant(x)", True),
        (INSTANT, Seen(), INSTANT, "x", False),
        (Kind.DATETIME, Seen(), INSTANT, "x", True),
        (INSTANT, Seen(), INT, "epoch_ms(x)", True),
        (TEXT, Seen({"whole number": 1}), INT, "x", False),
        (TEXT, Seen({"whole number": 1, "text": 1}), INT, "x", True),
        (Kind.JSON, Seen(), INT, None, True),
        (INT, Seen(), Kind.BOOLEAN, "x", True),
        (INT, Seen({"whole number": 2}, words=frozenset("01")), Kind.BOOLEAN, "x", False),
        (TEXT, Seen({"uuid": 2}), UUID, "x", False),
        (TEXT, Seen({"uuid": 2, "text": 1}), UUID, "x", True),
        (TEXT, Seen({"uuid": 1, "text": 2}), UUID, None, True),
        (INT, Seen(), UUID, None, True),
        (Kind.BINARY, Seen(), TEXT, None, True),
        (TEXT, Seen(), Kind.BINARY, None, True),
        (TEXT, Seen({"JSON": 1}), Kind.JSON, "x", False),
        (TEXT, Seen({"JSON": 1, "text": 1}), Kind.JSON, "x", True),
        (INSTANT, Seen(), Kind.DATE, "CAST(x AS DATE)", True),
        (INT, Seen(), TEXT, "x", False),
    ],
)
def test_a_proposal_goes_by_both_kinds_and_by_what_is_there(
    source: Kind, seen: Seen, target: Kind, expression: str | None, doubtful: bool
) -> None:
    made = propose(Column("x", source), seen, Column("y", target))
    assert (made.expression, bool(made.doubt)) == (expression, doubtful)


def test_records_without_a_required_value_and_unknown_words_are_marked() -> None:
    required = propose(Column("x", TEXT), Seen({"text": 3, "null": 2}), Column("y", TEXT, nullable=False))
    assert "2 of the first 5 records have no value" in str(required.doubt)
    words = Seen({"text": 3}, words=frozenset({"open", "shut"}))
    assert "1 of its words" in str(propose(Column("x", TEXT), words, Column("y", TEXT, choices=("open",))).doubt)
    assert "shut" not in str(propose(Column("x", TEXT), words, Column("y", TEXT, choices=("open",))).doubt)


def test_a_column_is_quoted_only_where_sql_would_not_read_it_as_its_name() -> None:
    names = ["id", "order", "current_date", "a b", "true", "userId", 'say "hi"']
    assert [reference(name) for name in names] == [
        "id",
        '"order"',
        '"current_date"',
        '"a b"',
        '"true"',
        "userId",
        '"say ""hi"""',
    ]


def test_looking_reads_the_first_records_and_draws_on_them() -> None:
    events = table("Events", id=TEXT, at=TEXT, kind=TEXT)
    rows = [{"id": f"e-{n}", "at": f"17356896000{n:02}", "kind": "open"} for n in range(20)]
    old = Memory("old").create("Events", events, rows)
    new = Memory("new").create("events", table("events", "id", id=TEXT, at=INSTANT, kind=TEXT))
    made = draft_between(old, new)
    assert columns_of(made, "events")["at"].form == "instant(\"at\", 'ms')"
    assert (flow_of(made, "events").unit, bool(flow_of(made, "events").unit_doubt)) == (("id",), True)


def test_sides_that_have_nothing_in_common_are_refused_with_what_to_do() -> None:
    old = Memory("old").create("People", table("People", "id", id=TEXT, name=TEXT))
    new = Memory("new").create("xyz", table("xyz", "q", q=TEXT))
    with pytest.raises(ConfigError, match="no two datasets are alike: old has People; new has xyz") as refused:
        draft_between(old, new)
    assert "--pair SOURCE=TARGET" in str(refused.value.hint)
