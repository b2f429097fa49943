"""Files: rows with bodies, copied and verified before anything points at them."""

from __future__ import annotations

from typing import Any

import pytest

from resettle.batch import Column, Kind, Schema
from resettle.connectors.memory import Memory
from resettle.engine import apply as applying
from tests.engine.conftest import MakeProject, Project, actions, counts, statuses

FILES = Schema(
    "objects",
    (Column("key", Kind.TEXT, nullable=False), Column("size", Kind.INT64), Column("md5", Kind.TEXT)),
    key=("key",),
)
FLOWS = """
tracks:
  from: src.tracks
  unit: id
  rows: "SELECT *, unnest(CAST(from_json(verses, '[\\"VARCHAR\\"]') AS VARCHAR[])) AS verse FROM source"
  partial_rows: {missing_verse: "verse like 'missing%'"}
  outputs:
    object:
      into: store.objects
      when: "verse = (CAST(from_json(verses, '[\\"VARCHAR\\"]') AS VARCHAR[]))[1]"
      body: {from: old.objects, at: file}
      columns: {key: "'audio/' || id", size: lookup_sizes(file)::bigint, md5: lookup_sums(file)}
    link:
      into: app.links
      columns: {id: "id || '/' || verse", object_key: "'audio/' || id"}
"""
EXTRA = """
lookups:
  sizes: {from: old.objects, key: key, value: size}
  sums: {from: old.objects, key: key, value: md5}
"""
TABLE = "CREATE TABLE links (id TEXT PRIMARY KEY, object_key TEXT NOT NULL CHECK (object_key <> 'audio/refused'))"


class Stores:
    """An old and a new store of files."""

    def __init__(self) -> None:
        self.old, self.new = Memory("old").create("objects", FILES), Memory("store").create("objects", FILES)
        self.new.transactional = False

    def keep(self, **files: bytes) -> None:
        for key, content in files.items():
            body = self.old.shelf
            body.files["objects", key] = content
            self.old._list("objects", key, len(content), body.open("objects", key).md5 or "")


def track(name: str, *verses: str, file: str | None = None) -> dict[str, Any]:
    return {"id": name, "file": file or name, "verses": '["' + '","'.join(verses or ("v1",)) + '"]'}


@pytest.fixture
def stores() -> Stores:
    return Stores()


def project_of(make: MakeProject, database: str, stores: Stores, **options: Any) -> Project:
    p = make(FLOWS, TABLE, target=database, extra=EXTRA, **options)
    p.opened_before = {"old": stores.old, "store": stores.new}
    text = (
        (p.root / "migration.yaml")
        .read_text()
        .replace("connections:\n", "connections:\n  old: {type: memory}\n  store: {type: memory}\n")
    )
    (p.root / "migration.yaml").write_text(text)
    return p


def test_a_file_is_copied_once_and_its_links_are_written_after_it(
    project: MakeProject, database: str, stores: Stores
) -> None:
    stores.keep(a=b"AAA", b=b"")
    p = project_of(project, database, stores, tracks=[track("a", "v1", "v2"), track("b")])
    planned = counts(p.plan())
    assert stores.new.shelf.puts == [], "a plan copies nothing"
    run = p.apply()
    assert counts(run) == planned
    assert actions(run) == {"copy": 2, "create": 3}
    assert stores.new.shelf.files == {("objects", "audio/a"): b"AAA", ("objects", "audio/b"): b""}
    assert p.rows("links", "id") == [("a/v1",), ("a/v2",), ("b/v1",)]
    again = p.apply(fresh=True)
    assert (statuses(again), actions(again)) == ({"unchanged": 2}, {"unchanged": 5})
    assert len(stores.new.shelf.puts) == 2
    assert p.verify().exit_code == 0


def test_what_is_missing_or_different_in_the_store_is_found_by_verify_and_put_right(
    project: MakeProject, stores: Stores
) -> None:
    stores.keep(a=b"AAA", b=b"BBB")
    p = project_of(project, "sqlite", stores, tracks=[track("a"), track("b")])
    p.apply()
    del stores.new.shelf.files["objects", "audio/a"]
    stores.new.create("objects", FILES, [{"key": "audio/b", "size": 2, "md5": "0"}])
    assert {finding.kind for finding in p.verify().findings} == {"missing", "differs"}
    assert actions(p.apply()) == {"copy": 2, "unchanged": 2}
    assert p.verify().exit_code == 0


@pytest.mark.parametrize("wrong", ["gone", "changed"])
def test_a_file_that_vanished_or_changed_is_failed_not_linked_and_tried_again(
    project: MakeProject, database: str, stores: Stores, wrong: str
) -> None:
    stores.keep(a=b"AAA", b=b"BBB")
    p = project_of(project, database, stores, tracks=[track("a"), track("b")])
    if wrong == "gone":
        del stores.old.shelf.files["objects", "a"]
    else:
        stores.old.shelf.files["objects", "a"] = b"other bytes"
    run = p.apply()
    assert (statuses(run), p.units("failed")) == ({"done": 1, "failed": 1}, {"a": wrong})
    assert p.rows("links", "id") == [("b/v1",)]
    stores.keep(a=b"AAA")
    assert statuses(p.apply()) == {"done": 1, "unchanged": 1}
    assert p.verify().exit_code == 0


def test_a_run_that_dies_after_copying_uploads_nothing_twice(
    project: MakeProject, database: str, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.keep(a=b"AAA", b=b"BBB")
    p = project_of(project, database, stores, tracks=[track("a"), track("b")])

    def died(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(applying, "transactions", died)
        with pytest.raises(SystemExit):
            p.apply()
    assert len(stores.new.shelf.puts) == 2
    assert p.rows("links") == []
    p.apply()
    assert len(stores.new.shelf.puts) == 2
    assert len(p.rows("links")) == 2
    assert [row[-1] for row in p.remembered()["rows"]] == [0] * 4 or not any(r[-1] for r in p.remembered()["rows"])
    assert p.verify().exit_code == 0


def test_a_file_of_a_unit_that_the_database_refuses_stays_and_is_ours(
    project: MakeProject, database: str, stores: Stores
) -> None:
    stores.keep(refused=b"R", b=b"BBB")
    p = project_of(project, database, stores, tracks=[track("refused"), track("b")])
    assert statuses(p.apply()) == {"done": 1, "held": 1}
    assert p.held == {"refused": "check"}
    assert p.rows("links", "id") == [("b/v1",)]
    p.apply(fresh=True)
    assert len(stores.new.shelf.puts) == 2, "it is known, and not sent again"


def test_a_unit_with_waiting_rows_is_partial_until_they_come(
    project: MakeProject, database: str, stores: Stores
) -> None:
    stores.keep(a=b"AAA")
    p = project_of(project, database, stores, tracks=[track("a", "v1", "missing2")])
    run = p.apply()
    assert (statuses(run), p.units("partial")) == ({"partial": 1}, {"a": "missing_verse"})
    assert p.rows("links", "id") == [("a/v1",)]
    p.put(tracks=[track("a", "v1", "v2")])
    assert statuses(p.apply()) == {"done": 1}
    assert p.rows("links", "id") == [("a/v1",), ("a/v2",)]
    assert len(stores.new.shelf.puts) == 1


def test_a_strangers_file_is_not_overwritten(project: MakeProject, stores: Stores) -> None:
    stores.keep(a=b"AAA")
    stores.new.shelf.put("objects", "audio/a", stores.old.shelf.open("objects", "a"), metadata={}, replace=False)
    stores.new.create("objects", FILES, [{"key": "audio/a", "size": 7, "md5": "0"}])
    p = project_of(project, "sqlite", stores, tracks=[track("a")])
    p.apply()
    assert p.held == {"a": "exists_in_target"}
    assert p.rows("links") == []


def test_a_unit_is_never_linked_to_the_file_of_another(project: MakeProject, database: str, stores: Stores) -> None:
    stores.keep(a=b"AAA", b=b"BBB")
    p = project_of(project, database, stores, tracks=[track("a"), track("b")])
    p.flows(FLOWS.replace("'audio/' || id", "'audio/same'").replace(", md5: lookup_sums(file)", ""), EXTRA)
    text = (p.root / "migration.yaml").read_text()
    (p.root / "migration.yaml").write_text(
        text.replace("connections:\n", "connections:\n  old: {type: memory}\n  store: {type: memory}\n")
    )
    for _ in range(2):
        p.apply()
        assert p.held == {"b": "duplicate_key"}
    assert stores.new.shelf.files == {("objects", "audio/same"): b"AAA"}


def test_a_record_whose_file_would_get_another_key_is_held(project: MakeProject, stores: Stores) -> None:
    stores.keep(a=b"AAA")
    p = project_of(project, "sqlite", stores, tracks=[track("a")])
    p.apply()
    text = (p.root / "migration.yaml").read_text()
    (p.root / "migration.yaml").write_text(text.replace("'audio/' || id", "'sound/' || id"))
    p.apply()
    assert p.held == {"a": "key_changed"}
    assert stores.new.shelf.puts == ["audio/a"]


def test_files_are_linked_batch_by_batch_though_the_plan_reads_many_at_once(
    project: MakeProject, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resettle.engine.flow.FILES", 2)
    stores.keep(**{f"f{n}": b"x" * n for n in range(7)})
    p = project_of(project, "sqlite", stores, tracks=[track(f"f{n}") for n in range(7)])
    assert counts(p.plan()) == counts(p.apply())
    assert len(p.rows("links")) == 7


def test_a_strangers_file_that_came_between_our_look_and_our_copy_is_kept(
    project: MakeProject, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.keep(a=b"AAA")
    p = project_of(project, "sqlite", stores, tracks=[track("a")])
    put = stores.new.put

    def stranger_first(*args: Any, **options: Any) -> Any:
        stores.new.shelf.files["objects", "audio/a"] = b"theirs"
        stores.new._list("objects", "audio/a", 6, "0")
        return put(*args, **options)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(stores.new, "put", stranger_first)
        p.apply()
    assert p.units("failed") == {"a": "exists"}
    p.apply()
    assert p.held == {"a": "exists_in_target"}
    assert stores.new.shelf.files["objects", "audio/a"] == b"theirs"


@pytest.mark.parametrize("policy", ["hold", "source"])
def test_a_reused_file_that_its_owner_changes_is_not_replaced(
    project: MakeProject, stores: Stores, policy: str
) -> None:
    stores.keep(a=b"AAA")
    stores.new.put("objects", "audio/a", stores.old.open("objects", "a"), metadata={}, replace=False)
    p = project_of(project, "sqlite", stores, tracks=[track("a")])
    text = (p.root / "migration.yaml").read_text()
    (p.root / "migration.yaml").write_text(text.replace("unit: id", f"unit: id\n    on_conflict: {policy}"))
    assert actions(p.apply()) == {"reuse": 1, "create": 1}
    stores.new.shelf.files["objects", "audio/a"] = b"edited"
    stores.new.create("objects", FILES, [{"key": "audio/a", "size": 6, "md5": "0"}])
    p.apply()
    assert p.held == {"a": "not_ours"}
    assert stores.new.shelf.files["objects", "audio/a"] == b"edited"
