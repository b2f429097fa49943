"""Records by status: what a run leaves to look at, lists with labels on request, rows that wait, JSON files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resettle.sandbox.s3 import start_s3
from tests.cli.conftest import Run

FLOW = """
migration: songs
connections:
  src: {{type: files, path: data}}
  old: {{type: s3, bucket: old, endpoint: "{endpoint}", access_key: "{access}", secret_key: "{secret}"}}
  new: {{type: s3, bucket: new, endpoint: "{endpoint}", access_key: "{access}", secret_key: "{secret}"}}
  app: {{type: sqlite, path: app.sqlite}}
lookups:
  nick: {{file: nicks.csv, key: name, value: nick}}
flows:
  songs:
    from: src.songs
    unit: id
    label: title || ' by ' || lookup_nick(singer)
    row_key: verse
    rows: "SELECT *, unnest(string_split(verses, ' ')) AS verse FROM source"
    skip: {{demo: "title = 'Demo'"}}
    hold: {{untitled: "title is null"}}
    partial_rows: {{no_text: "verse like 'x%'"}}
    outputs:
      object:
        into: new.objects
        when: verse = string_split(verses, ' ')[1]
        body: {{from: old.objects, at: file}}
        columns: {{key: "'audio/' || id", size: "5"}}
      verse:
        into: app.verses
        key: song, verse
        columns: {{song: id, verse: verse}}
"""
TABLE = "CREATE TABLE verses (song TEXT, verse TEXT, PRIMARY KEY (song, verse))"
SONGS = [
    {"id": "s1", "title": "Lake", "file": "a", "verses": "v1 v2", "singer": "ann"},
    {"id": "s2", "title": "Sea [red]", "file": "a", "verses": "v1 x7 v3 x9", "singer": "ann"},
    {"id": "s3", "title": "Fog", "file": "gone-1", "verses": "v1", "singer": "ann"},
    {"id": "s4", "title": None, "file": "a", "verses": "v1", "singer": "ben"},
    {"id": "s5", "title": "Demo", "file": "a", "verses": "v1", "singer": "ben"},
]
VALUES = ("Lake", "Sea", "Fog", "Demo", "Anna")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "data").mkdir()
    (tmp_path / "nicks.csv").write_text("name,nick\nann,Anna\n")
    put(tmp_path, SONGS)
    with sqlite3.connect(tmp_path / "app.sqlite") as database:
        database.execute(TABLE)
    with start_s3() as s3:
        s3.load("old", {"a": b"la la"})
        s3.load("new")
        text = FLOW.format(endpoint=s3.endpoint, access=s3.access_key, secret=s3.secret_key)
        (tmp_path / "migration.yaml").write_text(text)
        yield tmp_path


@pytest.fixture
def run(run: Run, folder: Path) -> Run:
    """Run a command on the migration."""
    return lambda *arguments: run(*arguments, "--migration", str(folder))


def put(folder: Path, songs: list[dict[str, Any]]) -> None:
    (folder / "data" / "songs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in songs))


def exported(run: Run, *statuses: str, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    code, out, _ = run("export", *(word for one in statuses for word in ("--status", one)), *more)
    assert code == 0
    found: list[dict[str, Any]] = json.loads(out)
    return found


# -- at the end of a run ---------------------------------------------------------------------------


def test_a_run_names_what_failed_and_lists_it_with_what_is_held_in_a_file_of_its_owner(run: Run, folder: Path) -> None:
    code, out, _ = run("apply")
    assert code == 1
    assert "! songs s3 gone: new.objects" in out.replace("objects:", "new.objects")
    (path,) = (folder / ".resettle").glob("failed_*.json")
    assert str(path) in out.replace("\n", "")
    assert path.stat().st_mode & 0o777 == 0o600
    found = json.loads(path.read_text())
    assert [(one["unit"], one["status"], one["reason"]) for one in found] == [
        ("s3", "failed", "gone"),
        ("s4", "held", "untitled"),
    ]
    assert not any(value in out + path.read_text() for value in VALUES)


def test_labels_are_shown_on_request_only(run: Run, folder: Path) -> None:
    code, out, _ = run("apply", "--show-values", "--json")
    told = json.loads(out)
    assert (code, [(one["unit"], one["label"]) for one in told["failed"]]) == (1, [("s3", "Fog by Anna")])
    assert [one["label"] for one in json.loads(Path(told["unsettled"]).read_text())] == ["Fog by Anna", None]
    for command in (["held", "list"], ["held", "export", "-"], ["trace", "s2"], ["held", "show", "s4"]):
        _, plain, _ = run(*command)
        assert not any(value in plain for value in VALUES), command
    _, out, _ = run("held", "list", "--show-values")
    assert "songs s2 (Sea [red] by Anna) no_text: waiting: x7 (no_text), x9 (no_text)" in out
    _, out, _ = run("trace", "s2", "--show-values")
    assert "label Sea [red] by Anna" in out
    put(folder, [{**one, "title": one["title"] and f"{one['title']} 2"} for one in SONGS])
    _, out, _ = run("held", "list", "--show-values", "--json")
    assert [one["label"] for one in json.loads(out)["partial"]] == ["Sea [red] 2 by Anna"]


def test_a_run_that_leaves_nothing_writes_no_list(run: Run, folder: Path) -> None:
    put(folder, SONGS[:1])
    code, out, _ = run("apply", "--json")
    assert (code, json.loads(out)["failed"], json.loads(out)["unsettled"]) == (0, [], None)
    assert not list((folder / ".resettle").glob("failed_*"))


def test_a_list_of_many_failures_is_cut_on_the_terminal_and_whole_in_the_file(run: Run, folder: Path) -> None:
    put(folder, [{**SONGS[2], "id": f"f{number:02}"} for number in range(23)])
    code, out, _ = run("apply")
    assert (code, out.count("! songs f"), "and 3 more" in out) == (1, 20, True)
    (path,) = (folder / ".resettle").glob("failed_*.json")
    assert len(json.loads(path.read_text())) == 23


def test_what_failed_before_and_was_not_tried_again_is_not_told_again(run: Run, folder: Path) -> None:
    run("apply")
    _, out, _ = run("apply", "--where", "id = 's1'", "--json")
    assert json.loads(out)["failed"] == []


def test_a_replay_leaves_a_list_too(run: Run, folder: Path) -> None:
    run("apply")
    for one in (folder / ".resettle").glob("failed_*"):
        one.unlink()
    assert run("held", "replay")[0] == 3
    (path,) = (folder / ".resettle").glob("failed_*.json")
    assert [one["unit"] for one in json.loads(path.read_text())] == ["s4"]


# -- by status -------------------------------------------------------------------------------------


def test_every_status_is_exported_with_what_its_records_became(run: Run, folder: Path) -> None:
    assert [one["unit"] for one in exported(run, "pending")] == ["s1", "s2", "s3", "s4", "s5"]
    run("apply")
    wanted = {"done": ["s1"], "partial": ["s2"], "skipped": ["s5"], "held": ["s4"], "failed": ["s3"], "pending": []}
    for status, units in wanted.items():
        found = exported(run, status)
        assert [(one["status"], one["unit"]) for one in found] == [(status, unit) for unit in units]
        assert not any("label" in one for one in found)
    (done,) = exported(run, "done")
    assert done["targets"] == [
        {"output": "object", "key": "audio/s1", "reused": False},
        {"output": "verse", "key": "s1/v1", "reused": False},
        {"output": "verse", "key": "s1/v2", "reused": False},
    ]
    (skipped,) = exported(run, "skipped", more=("--reason", "demo", "--show-values"))
    assert (skipped["reason"], skipped["label"], skipped["targets"]) == ("demo", None, [])
    assert exported(run, "skipped", more=("--reason", "other")) == []
    assert [one["unit"] for one in exported(run, "held", "failed", "done")] == ["s4", "s3", "s1"]
    put(folder, [*SONGS, {**SONGS[0], "id": "s9"}])
    assert [one["unit"] for one in exported(run, "pending", more=("--show-values",))] == ["s9"]


def test_an_export_by_status_goes_to_a_file_of_its_owner(run: Run, folder: Path) -> None:
    run("apply")
    path = folder / "held.json"
    code, out, err = run("export", "--status", "held", "--output", str(path))
    assert (code, out, "1 records" in err) == (0, "", True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one["unit"] for one in json.loads(path.read_text())] == ["s4"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["export"],
        ["export", "there", "--status", "held"],
        ["export", "there", "--reason", "demo"],
        ["export", "--status", "unheard"],
        ["export", "--status", "held", "--limit", "3"],
        ["apply", "--concurrency", "0"],
        ["plan", "--concurrency", "none"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(run: Run, wrong: list[str]) -> None:
    assert run(*wrong)[0] == 2


# -- rows that wait --------------------------------------------------------------------------------


def test_a_partial_record_says_which_of_its_rows_wait_and_why(run: Run, folder: Path) -> None:
    run("apply")
    waiting = [{"row": "x7", "reason": "no_text"}, {"row": "x9", "reason": "no_text"}]
    (found,) = exported(run, "partial")
    assert found["waiting"] == waiting
    assert [target["key"] for target in found["targets"]] == ["audio/s2", "s2/v1", "s2/v3"]
    _, out, _ = run("held", "list", "--json")
    assert [one["waiting"] for one in json.loads(out)["partial"]] == [waiting]
    _, out, _ = run("trace", "s2", "--json")
    assert [one["waiting"] for one in json.loads(out)["found"] if one.get("status")] == [waiting]
    _, out, _ = run("trace", "s2")
    assert "waiting: x7 (no_text), x9 (no_text)" in out
    put(folder, [{**SONGS[1], "verses": "v1 v7 v3 x9"}])
    run("apply")
    (found,) = exported(run, "partial")
    assert found["waiting"] == waiting[1:]


def test_rows_without_a_key_are_told_by_their_place(run: Run, folder: Path) -> None:
    path = folder / "migration.yaml"
    path.write_text(path.read_text().replace("    row_key: verse\n", ""))
    run("apply")
    (found,) = exported(run, "partial")
    assert [one["row"] for one in found["waiting"]] == ["1", "3"]


def test_a_label_changes_no_decision(run: Run, folder: Path) -> None:
    run("apply")
    path = folder / "migration.yaml"
    path.write_text(path.read_text().replace("    label: title", "    label: id || title"))
    _, out, _ = run("apply", "--json")
    (flow,) = json.loads(out)["flows"]
    assert (flow["done"], flow["unchanged"]) == (0, 1)


@pytest.mark.parametrize("line", ["label: unheard(title)", "label: title ||", "row_key: unheard(verse)"])
def test_a_label_or_a_row_key_that_cannot_work_is_refused_at_its_place(run: Run, folder: Path, line: str) -> None:
    path, key = folder / "migration.yaml", line.partition(":")[0]
    kept = [line if one.strip().startswith(f"{key}:") else one for one in path.read_text().splitlines()]
    text = "\n".join(f"    {one}" if one == line else one for one in kept)
    path.write_text(text)
    code, _, err = run("plan")
    at = text.splitlines().index(f"    {line}") + 1
    assert (code, f"migration.yaml:{at}:" in err.replace("\n", "")) == (2, True)
