"""Bad input gets a clear message, the right exit code and nothing written; good input clean JSON."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Run

FLOW = """
migration: small
connections:
  src: {type: files, path: data}
  app: {type: sqlite, path: app.sqlite}
flows:
  people:
    from: src.people
    unit: id
    into: app.people
    columns: {id: id, name: name, kind: {value: friend}}
"""
TABLE = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT CHECK (kind IN ('friend', 'foe')))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small migration whose two records are good."""
    (tmp_path / "migration.yaml").write_text(FLOW)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "people.jsonl").write_text('{"id":"a","name":"Ann"}\n{"id":"b","name":"Ben"}\n')
    with sqlite3.connect(tmp_path / "app.sqlite") as database:
        database.execute(TABLE)
    return tmp_path


@pytest.fixture
def run(run: Run, folder: Path) -> Run:
    """Run a command on the migration."""
    return lambda *arguments: run(*arguments, "--migration", str(folder))


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / "migration.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def tables(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "app.sqlite") as database:
        return [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def people(folder: Path) -> int:
    with sqlite3.connect(folder / "app.sqlite") as database:
        return int(database.execute("SELECT count(*) FROM people").fetchone()[0])


def test_a_good_migration_ends_with_0_and_again_with_0(run: Run, folder: Path) -> None:
    assert run("apply")[0] == 0
    assert people(folder) == 2
    code, out, _ = run("apply", "--json")
    assert (code, json.loads(out)["flows"][0]["unchanged"]) == (0, 2)


@pytest.mark.parametrize(
    "command",
    [
        ["check"],
        ["profile"],
        ["plan"],
        ["apply"],
        ["status"],
        ["runs"],
        ["verify"],
        ["show"],
        ["held", "list"],
        ["trace", "a"],
    ],
    ids=" ".join,
)
def test_json_is_all_that_stdout_holds(run: Run, command: list[str]) -> None:
    assert run("apply")[0] == 0
    code, out, _ = run(*command, "--json")
    assert code == 0
    assert json.loads(out)


def test_a_plan_shows_fields_that_nothing_maps(run: Run, folder: Path) -> None:
    (folder / "data" / "people.jsonl").write_text('{"id":"a","name":"Ann","nickname":"A"}\n')
    code, out, _ = run("plan")
    assert code == 0
    assert "nothing maps nickname" in out
    assert tables(folder) == ["people"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("path: data", 'path: "${NOWHERE_SET}"', "the variable `NOWHERE_SET` is not set"),
        ("name: name,", "name: nmae,", "has no column `nmae`"),
        ("name: name,", "nam: name,", "has no column `nam`"),
        ("name: name, ", "", "is NOT NULL, has no default and no source"),
        ("into: app.people", "into: app.peopel", "peopel"),
        ("into: app.people", "into: app.people\n    key: name", "has no unique index on (name)"),
        ("{value: friend}", "{value: enemy}", "does not accept this constant"),
        ("name: name,", 'name: "upper(name",', "bad SQL"),
        ("from: src.people", "from: scr.people", "unknown connection `scr`"),
        ("unit: id", "unit: id\n    colums: x", "unknown key `colums`"),
    ],
    ids=[
        "a missing variable",
        "a source column that is not there",
        "a target column that is not there",
        "a NOT NULL column without a source",
        "a target table that is not there",
        "a key without a unique index",
        "a constant that a CHECK refuses",
        "bad SQL",
        "an unknown connection",
        "an unknown key",
    ],
)
@pytest.mark.parametrize("command", ["plan", "apply"])
def test_wrong_declarations_end_with_2_at_their_place_and_write_nothing(
    run: Run, folder: Path, old: str, new: str, said: str, command: str
) -> None:
    rewrite(folder, old, new)
    code, _, err = run(command)
    flat = " ".join(err.split())
    assert code == 2
    assert said in flat
    assert tables(folder) == ["people"]


def test_all_columns_that_are_wrong_are_told_at_once(run: Run, folder: Path) -> None:
    rewrite(folder, "name: name,", "nam: name, nick: name,")
    code, _, err = run("plan")
    said = " ".join(err.split())
    assert code == 2
    assert said.count("error:") == 2
    assert said.index("has no column `nam`") < said.index("has no column `nick`")
    code, out, _ = run("check", "--json")
    assert code == 2
    errors = [remark["message"] for remark in json.loads(out)["remarks"] if remark["level"] == "error"]
    assert [message.split(": ", 1)[1].split(" has ")[1] for message in errors] == [
        "no column `nam`",
        "no column `nick`",
    ]


def test_all_keys_that_nobody_knows_are_told_at_once(run: Run, folder: Path) -> None:
    rewrite(folder, "unit: id", "unit: id\n    colums: x\n    skp: {}")
    code, _, err = run("plan")
    said = " ".join(err.split())
    assert code == 2
    assert said.count("error:") == 2
    assert "unknown key `colums` did you mean `columns`?" in said
    assert "unknown key `skp` did you mean `skip`?" in said


def test_a_mapping_error_names_file_line_and_column(run: Run, folder: Path) -> None:
    rewrite(folder, "name: name,", "name: nmae,")
    _, _, err = run("plan")
    line = 1 + (folder / "migration.yaml").read_text().splitlines().index(
        "    columns: {id: id, name: nmae, kind: {value: friend}}"
    )
    assert f"migration.yaml:{line}:29: " in err.replace("\n", "")
    assert "did you mean `name`?" in err


def test_held_records_end_with_3_and_are_listed_with_their_reason(run: Run, folder: Path) -> None:
    (folder / "data" / "people.jsonl").write_text('{"id":"a","name":"Ann"}\n{"id":"b","name":null}\n')
    code, out, _ = run("apply")
    assert code == 3
    assert "held list" in out
    code, out, _ = run("held", "list")
    assert "people.name: NOT NULL" in out


def test_a_conflict_shows_what_is_there_and_what_we_would_write_and_values_on_request_only(
    run: Run, folder: Path
) -> None:
    run("apply")
    with sqlite3.connect(folder / "app.sqlite") as database:
        database.execute("UPDATE people SET name = 'Eve' WHERE id = 'a'")
    (folder / "data" / "people.jsonl").write_text('{"id":"a","name":"Anna"}\n{"id":"b","name":"Ben"}\n')
    assert run("apply")[0] == 3
    code, out, _ = run("held", "show", "a")
    assert (code, "somebody changed it since" in out, "Eve" in out) == (0, True, False)
    assert "name: now Eve | we would write Anna" in run("held", "show", "a", "--show-values")[1]
    found = json.loads(run("held", "show", "a", "--json")[1])["held"][0]["rows"]
    assert found == [{"output": "row", "key": "a", "wrote": 1, "as_left": False, "differ": {"name": {}}}]


def test_held_records_are_replayed_once_they_are_right(run: Run, folder: Path) -> None:
    path = folder / "data" / "people.jsonl"
    path.write_text('{"id":"a","name":"Ann"}\n{"id":"b","name":null}\n')
    run("apply")
    assert run("held", "replay")[0] == 3
    path.write_text('{"id":"a","name":"Ann"}\n{"id":"b","name":"Ben"}\n')
    assert run("held", "replay")[0] == 0
    assert people(folder) == 2


def test_verify_names_what_differs_and_whose_it_is_without_its_value(run: Run, folder: Path) -> None:
    rewrite(folder, "flows:", "verify: {spot_checks: 2, exclusive: [app.people]}\nflows:")
    run("apply")
    with sqlite3.connect(folder / "app.sqlite") as database:
        database.execute("UPDATE people SET name = 'Eve' WHERE id = 'a'")
        database.execute("INSERT INTO people VALUES ('z', 'Zoe', 'foe')")
    code, out, _ = run("verify")
    assert (code, "Eve" in out, "Zoe" in out) == (4, False, False)
    assert "    * name: differs (not shown)" in out
    assert "* differs people a: people: name (changed in the target since we wrote it)" in out
    assert "* extra people z: " in out
    assert "    * name: Ann | Eve" in run("verify", "--show-values")[1]


def test_a_plan_ends_with_what_it_would_write(run: Run) -> None:
    assert "Plan: 2 rows to create. Nothing will be deleted" in run("plan")[1]
    run("apply")
    assert "Plan: nothing to write. Nothing will be deleted" in run("plan")[1]


def test_a_replay_tells_of_records_that_left_the_source(run: Run, folder: Path) -> None:
    path = folder / "data" / "people.jsonl"
    path.write_text('{"id":"a","name":"Ann"}\n{"id":"b","name":null}\n')
    run("apply")
    path.write_text('{"id":"a","name":"Ann"}\n')
    assert "1 of them are not in the source any more" in run("held", "replay")[1]


@pytest.mark.parametrize("command", [["replay"], ["waive", "--why", "test data"]])
def test_a_named_record_must_be_held(run: Run, folder: Path, command: list[str]) -> None:
    (folder / "data" / "people.jsonl").write_text('{"id":"a","name":"Ann"}\n{"id":"b","name":null}\n')
    run("apply")
    code, _, said = run("held", *command, "b", "a")
    assert (code, "not held: a" in said) == (2, True)
    assert json.loads(run("held", "list", "--json")[1])["held"][0]["unit"] == "b"
    assert json.loads(run("runs", "--json")[1])["runs"][0]["phase"] == "apply"


def test_waived_records_count_as_skipped_from_then_on(run: Run, folder: Path) -> None:
    (folder / "data" / "people.jsonl").write_text('{"id":"a","name":"Ann"}\n{"id":"b","name":null}\n')
    run("apply")
    assert run("held", "waive")[0] == 2
    assert run("held", "waive", "b", "--why", "never used")[0] == 0
    code, out, _ = run("apply", "--json")
    assert (code, json.loads(out)["flows"][0]["skipped"]) == (0, 1)


def test_a_finding_ends_with_4_and_names_the_column(run: Run, folder: Path) -> None:
    run("apply")
    with sqlite3.connect(folder / "app.sqlite") as database:
        database.execute("UPDATE people SET name = 'Eve' WHERE id = 'a'")
    code, out, _ = run("verify")
    assert code == 4
    assert "differs people a: people: name" in out


def test_a_stale_plan_ends_with_5_and_writes_nothing(run: Run, folder: Path) -> None:
    plan = folder / "plan.json"
    assert run("plan", "--out", str(plan))[0] == 0
    (folder / "data" / "people.jsonl").write_text('{"id":"a","name":"Anna"}\n')
    code, _, err = run("apply", str(plan))
    assert code == 5
    assert "stale" in err
    assert tables(folder) == ["people"]


def test_a_file_that_is_no_plan_ends_with_5(run: Run, folder: Path) -> None:
    assert run("apply", str(folder / "migration.yaml"))[0] == 5


def test_a_database_that_may_not_be_read_ends_with_6(run: Run, folder: Path, database_of_others: str) -> None:
    rewrite(folder, "{type: sqlite, path: app.sqlite}", f"{{type: postgres, url: '{database_of_others}'}}")
    code, _, err = run("apply")
    assert code == 6
    assert "secret" not in err


@pytest.fixture
def database_of_others(postgres_url: str) -> str:
    """A URL whose password is wrong."""
    scheme, rest = postgres_url.split("://", 1)
    place = rest.rsplit("@", 1)[-1]
    return f"{scheme}://postgres:secret-and-wrong@{place}"


def test_a_database_that_nobody_answers_for_ends_with_1_and_what_to_look_at(run: Run, folder: Path) -> None:
    url = "postgresql://me:secret@127.0.0.1:1/nothing"
    rewrite(folder, "{type: sqlite, path: app.sqlite}", f"{{type: postgres, url: '{url}', connect_timeout: 1}}")
    code, _, err = run("plan")
    assert code == 1
    assert "cannot be reached" in err
    assert "secret" not in err


def test_a_running_writer_locks_others_out_with_7(run: Run, folder: Path) -> None:
    run("apply")
    with sqlite3.connect(folder / "app.sqlite") as database:
        database.execute(
            "UPDATE resettle_locks SET run = 1, host = 'elsewhere', heartbeat = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
        )
    code, _, err = run("apply")
    assert code == 7
    assert "elsewhere" in err


def test_a_ledger_of_a_newer_version_is_left_alone_with_2(run: Run, folder: Path) -> None:
    run("apply")
    with sqlite3.connect(folder / "app.sqlite") as database:
        database.execute("UPDATE resettle_meta SET value = '99'")
    code, _, err = run("apply")
    assert code == 2
    assert "newer" in err


def test_half_a_line_at_the_end_is_a_corrupt_source_and_nothing_is_written(run: Run, folder: Path) -> None:
    (folder / "data" / "people.jsonl").write_text('{"id":"a","name":"Ann"}\n{"id":"b","na')
    code, _, err = run("apply")
    assert code == 1
    assert "people.jsonl" in err
    assert tables(folder) == ["people"]


def test_a_broken_gzip_is_a_corrupt_source_and_nothing_is_written(run: Run, folder: Path) -> None:
    data = gzip.compress(b'{"id":"a","name":"Ann"}\n' * 500)
    (folder / "data" / "people.jsonl").unlink()
    (folder / "data" / "people.jsonl.gz").write_bytes(data[:-20])
    code, _, err = run("apply")
    assert (code, tables(folder)) == (1, ["people"])
    assert "people.jsonl.gz" in err


def test_an_export_says_how_many_records_are_not_whole(run: Run, folder: Path) -> None:
    rewrite(folder, "src: {type: files, path: data}", "src: {type: sqlite, path: old.sqlite}")
    with sqlite3.connect(folder / "old.sqlite") as database:
        database.execute("CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)")
        database.execute("INSERT INTO people VALUES ('a', 'Anna'), ('b', CAST(X'ff41' AS TEXT))")
    code, _, said = run("export", str(folder / "kept"))
    assert (code, "people: 2 records" in said, "1 of them are not whole" in said) == (0, True, True)
    assert json.loads((folder / "kept" / "manifest.json").read_text())["files"][0]["partial"] == 1
    lines = gzip.decompress((folder / "kept" / "people.jsonl.gz").read_bytes()).decode().splitlines()
    assert [json.loads(line)["_trouble"] is None for line in lines] == [True, False]


def test_an_export_with_a_wrong_md5_is_refused_before_anything_is_written(run: Run, folder: Path) -> None:
    export = folder / "export" / "people" / "AWSDynamoDB" / "01"
    (export / "data").mkdir(parents=True)
    data = gzip.compress(b'{"Item":{"id":{"S":"a"},"name":{"S":"Ann"}}}\n')
    (export / "data" / "x.json.gz").write_bytes(data)
    wrong = base64.b64encode(hashlib.md5(b"something else").digest()).decode()
    listed = {
        "itemCount": 1,
        "md5Checksum": wrong,
        "etag": "x-1",
        "dataFileS3Key": "people/AWSDynamoDB/01/data/x.json.gz",
    }
    (export / "manifest-files.json").write_text(json.dumps(listed) + "\n")
    summary = {
        "version": "2020-06-30",
        "exportArn": "arn:aws:dynamodb:us-east-1:1:table/people/export/01",
        "startTime": "2025-12-26T12:00:00.000Z",
        "endTime": "2025-12-26T12:05:00.000Z",
        "tableArn": "arn:aws:dynamodb:us-east-1:1:table/people",
        "manifestFilesS3Key": "people/AWSDynamoDB/01/manifest-files.json",
        "itemCount": 1,
        "outputFormat": "DYNAMODB_JSON",
        "exportType": "FULL_EXPORT",
    }
    (export / "manifest-summary.json").write_text(json.dumps(summary))
    rewrite(folder, "{type: files, path: data}", "{type: dynamodb, export: export}")
    code, _, err = run("apply")
    assert (code, tables(folder)) == (1, ["people"])
    assert "checksum" in err


def test_a_guarded_environment_needs_its_name(run: Run, folder: Path) -> None:
    rewrite(folder, "flows:", "environments: {local: {}, production: {guard: true}}\nflows:")
    code, _, err = run("apply", "--env", "production")
    assert (code, people(folder)) == (2, 0)
    assert "--yes production" in err
    assert run("apply", "--env", "production", "--yes", "production")[0] == 0


def test_an_unknown_option_ends_with_2(run: Run) -> None:
    assert run("plan", "--frobnicate")[0] == 2


def test_a_log_and_an_export_are_readable_by_their_owner_only(run: Run, folder: Path) -> None:
    run("apply")
    assert run("export", str(folder / "backup"))[0] == 0
    files = [*(folder / ".resettle" / "logs").iterdir(), *(folder / "backup").iterdir()]
    assert len(files) >= 4
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}


def test_an_export_is_a_source_again(run: Run, folder: Path) -> None:
    assert run("export", str(folder / "backup"))[0] == 0
    (folder / "backup" / "manifest.json").unlink()
    rewrite(folder, "path: data", "path: backup")
    assert run("apply")[0] == 0
    assert people(folder) == 2


def test_where_and_limit_choose_records(run: Run, folder: Path) -> None:
    assert run("apply", "--where", "name = 'Ben'")[0] == 0
    assert people(folder) == 1
    code, out, _ = run("plan", "--limit", "1", "--json")
    assert (code, json.loads(out)["flows"][0]["read"]) == (0, 1)
    assert run("plan", "--where", "name =")[0] == 2


def test_secrets_are_not_shown(run: Run, folder: Path) -> None:
    rewrite(folder, "path: app.sqlite}", "path: app.sqlite}\n  other: {type: postgres, url: 'postgresql://u:hush@h/d'}")
    code, out, _ = run("show")
    assert code == 0
    assert "hush" not in out
