"""config asks for what the connections must be told, hides secrets, keeps answers in .env, and checks at the end."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from resettle.connections import CONNECTORS, settings_of
from resettle.errors import ConfigError
from resettle.mapping.questions import Question, filled, questions, settled
from tests.cli.conftest import Run

FLOW = """
migration: small
vars: {kind: friend}
connections:
  src: {type: files, path: "${DUMP:-data}"}
  app: {type: sqlite, path: "${APP_DB}"}
  spare: {type: appsync, url: "https://${HOST}/${STAGE}/graphql", api_key: "${SPARE_WORD}"}
environments:
  local: {vars: {STAGE: dev}}
  live: {guard: true, vars: {STAGE: live}}
flows:
  people:
    from: src.people
    unit: id
    into: app.people
    columns: {id: id, name: name, kind: "'${kind}'"}
"""
TABLE = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT)"
NEEDED = ("APP_DB", "HOST", "SPARE_WORD")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*NEEDED, "DUMP", "STAGE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "migration.yaml").write_text(FLOW)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "people.jsonl").write_text('{"id":"a","name":"Ann"}\n')
    with sqlite3.connect(tmp_path / "app.sqlite") as database:
        database.execute(TABLE)
    return tmp_path


def typed(folder: Path, command: Sequence[str], answers: Sequence[tuple[str, str]]) -> tuple[int, str]:
    """Run a command on a terminal of its own, typing each answer once its question stands there."""
    ours, theirs = pty.openpty()

    def become_the_terminals_own() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-c", "from resettle.cli import main; main()", *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "TERM": "dumb"},
        preexec_fn=become_the_terminals_own,
    )
    os.close(theirs)
    seen, at, waiting, until = "", 0, list(answers), time.monotonic() + 60
    while time.monotonic() < until:
        if waiting and (found := seen.find(waiting[0][0], at)) >= 0 and seen.endswith((": ", "]: ")):
            at = found + len(waiting[0][0])
            os.write(ours, f"{waiting.pop(0)[1]}\n".encode())
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        seen += piece.decode()
    os.close(ours)
    assert not waiting, seen
    return process.wait(10), seen


def asked(folder: Path, environment: str | None = None) -> dict[str, Question]:
    return {one.name: one for one in questions(folder, environment, lambda kind: settings_of(kind, kind))}


# -- what is asked ---------------------------------------------------------------------------------


def test_what_the_declaration_takes_from_outside_is_asked_and_nothing_else(folder: Path) -> None:
    found = asked(folder, "live")
    assert list(found) == ["DUMP", "APP_DB", "HOST", "SPARE_WORD"]
    assert {name: one.default for name, one in found.items()} == {
        "DUMP": "data",
        "APP_DB": None,
        "HOST": None,
        "SPARE_WORD": None,
    }
    assert [name for name, one in found.items() if one.secret] == ["SPARE_WORD"]
    assert found["HOST"].what == "spare.url: the API's GraphQL endpoint"


def test_a_default_counts_only_where_every_use_has_one(folder: Path) -> None:
    path = folder / "migration.yaml"
    path.write_text(FLOW.replace("vars: {kind: friend}", "").replace("'${kind}'", "'${kind:-foe}${HOST:-none}'"))
    assert (asked(folder)["kind"].default, asked(folder)["HOST"].default) == ("foe", None)


def described(model: Any) -> Iterator[tuple[str, str | None]]:
    """Every setting of a model and of the models in it, and its description."""
    for name, field in model.model_fields.items():
        yield f"{model.__name__}.{name}", field.description
        for kind in parts(field.annotation):
            yield from described(kind)


def parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from parts(inner)


@pytest.mark.parametrize("kind", sorted(CONNECTORS))
def test_every_setting_of_a_connection_says_what_it_is(kind: str) -> None:
    said = dict(described(settings_of(kind, kind)))
    assert said
    assert not [name for name, words in said.items() if not words]


def test_the_comment_of_an_example_says_what_it_is(folder: Path) -> None:
    (folder / ".env.example").write_text("# The app's own file,\n# as SQLite\nAPP_DB=\nHOST=\n")
    assert asked(folder)["APP_DB"].what == "The app's own file, as SQLite"


def test_the_real_migration_asks_what_its_seed_lists() -> None:
    migration = Path(__file__).parents[2] / "migrations" / "amplify-media-migrator"
    found = asked(migration, "production")
    wanted = {"DRIVE_FOLDER", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_TOKEN", "STORAGE_BUCKET", "AWS_REGION"}
    wanted |= {"AMPLIFY_API_ENDPOINT", "COGNITO_USER_POOL", "COGNITO_CLIENT", "COGNITO_USERNAME", "COGNITO_PASSWORD"}
    assert wanted <= found.keys()
    assert {name for name, one in found.items() if one.secret} == {"COGNITO_PASSWORD"}
    assert found["DRIVE_FOLDER"].default is None


# -- without a terminal ----------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--yes"]])
def test_where_nobody_can_be_asked_it_is_listed_and_nothing_is_written(run: Run, folder: Path, more: list[str]) -> None:
    (folder / ".env").write_text("APP_DB=app.sqlite\nSPARE_WORD=hush\n")
    code, out, _ = run("config", "--migration", str(folder), "--env", "live", *more)
    assert code == 0
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.strip()}
    assert lines["DUMP"].startswith("default: data")
    assert lines["APP_DB"].startswith("set in .env")
    assert lines["HOST"].startswith("not set")
    assert "hush" not in out
    assert (folder / ".env").read_text() == "APP_DB=app.sqlite\nSPARE_WORD=hush\n"


def test_as_json_it_says_what_is_set_and_no_value(run: Run, folder: Path) -> None:
    (folder / ".env").write_text("SPARE_WORD=hush\n")
    _, out, _ = run("config", "--migration", str(folder), "--json")
    told = {one["name"]: one for one in json.loads(out)["variables"]}
    assert (told["SPARE_WORD"]["set"], told["SPARE_WORD"]["secret"], told["HOST"]["set"]) == (True, True, False)
    assert "hush" not in out


# -- on a terminal ---------------------------------------------------------------------------------


def test_answers_are_kept_for_their_owner_only_and_secrets_are_not_shown(folder: Path) -> None:
    answers = [
        ("Environment (local, live)", ""),
        ("DUMP", ""),
        ("APP_DB", ""),
        ("It has no default", "app.sqlite"),
        ("HOST", "127.0.0.1"),
        ("SPARE_WORD", "hush # 'hush'"),
    ]
    code, seen = typed(folder, ["config"], answers)
    assert code == 0, seen
    assert "Ready to plan" in seen
    assert "hush" not in seen
    assert settled(folder) == {"APP_DB": "app.sqlite", "HOST": "127.0.0.1", "SPARE_WORD": "hush # 'hush'"}
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    again = [("DUMP", ""), ("APP_DB", ""), ("HOST", "other.example"), ("SPARE_WORD", "")]
    code, seen = typed(folder, ["config", "--env", "live"], again)
    assert (code, "hush" in seen) == (0, False)
    assert settled(folder) == {"APP_DB": "app.sqlite", "HOST": "other.example", "SPARE_WORD": "hush # 'hush'"}


def test_what_does_not_work_is_told_at_the_end_and_the_answers_stay(folder: Path) -> None:
    answers = [("DUMP", ""), ("APP_DB", "nowhere.sqlite"), ("HOST", "h"), ("SPARE_WORD", "w")]
    code, seen = typed(folder, ["config", "--env", "live"], answers)
    assert code == 2, seen
    assert settled(folder)["APP_DB"] == "nowhere.sqlite"


def test_init_asks_for_a_template_named_as_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DUMP", "APP_DB"):
        monkeypatch.delenv(name, raising=False)
    answers = [("Environment (local, production)", "local"), ("DUMP", "."), ("APP_DB", "nowhere.sqlite")]
    code, seen = typed(tmp_path, ["init", "json-lists-to-tables"], answers)
    folder = tmp_path / "json-lists-to-tables"
    assert (code, settled(folder)) == (2, {"DUMP": ".", "APP_DB": "nowhere.sqlite"}), seen
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600


def test_a_whole_migration_is_a_template_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("init", "amplify-media-migrator", "--yes")
    folder = tmp_path / "amplify-media-migrator"
    assert code == 0
    assert {"migration.yaml", "functions.py", "README.md", ".env.example"} <= {one.name for one in folder.iterdir()}
    assert (folder / "lookups" / "extensions.csv").is_file()
    assert not (folder / "sandbox").exists()
    assert not (folder / ".env").exists()
    assert "DRIVE_FOLDER" in out


# -- .env ------------------------------------------------------------------------------------------


def test_what_else_stands_in_env_stays(folder: Path) -> None:
    (folder / ".env").write_text("# mine\nOTHER=1\nexport HOST=old\n")
    assert filled(folder, {"HOST": "new", "APP_DB": "a b"}) == "# mine\nOTHER=1\nHOST=new\nAPP_DB='a b'\n"


def test_a_new_env_has_the_examples_comments_and_none_of_its_values(folder: Path) -> None:
    (folder / ".env.example").write_text("# The host\nHOST=your-host.example\n\n# The app\nAPP_DB=\n")
    assert filled(folder, {"APP_DB": "x"}) == "# The host\n# HOST=your-host.example\n\n# The app\nAPP_DB=x\n"


@pytest.mark.parametrize("value", ["a b#c", 'it\'s "q" \\n', "x\\", "'", "ü", "=a", "$x"])
def test_any_value_comes_back_as_it_was(folder: Path, value: str) -> None:
    (folder / ".env").write_text(filled(folder, {"HOST": value}))
    assert settled(folder) == {"HOST": value}


def test_a_value_that_env_cannot_hold_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be kept"):
        filled(folder, {"HOST": "a${HOME}b"})
