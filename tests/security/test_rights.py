"""The rights that `check --privileges` names are enough for an apply, and what only looks works with rights to read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from resettle.cli import main
from resettle.connectors import _sqlite_statements
from tests.security import worlds
from tests.security.conftest import Folder
from tests.security.worlds import World, world

Database = Callable[[], str]
Run = Callable[..., tuple[int, str, str]]
LOOKS = (("check",), ("plan", "--json"), ("verify", "--json"), ("status",), ("runs",), ("held", "list"), ("trace", "x"))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command of a world with other variables than its own: exit code, stdout, stderr."""

    def run(one: World, *arguments: str, **variables: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            for name, value in (one.variables | variables).items():
                patch.setenv(name, value)
            capfd.readouterr()
            with pytest.raises(SystemExit) as stop:
                main([*arguments, "-m", str(one.root), "--env", "local"])
        found = capfd.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, found.out, found.err

    return run


@contextmanager
def role(url: str, name: str) -> Iterator[str]:
    """A role without any right, and its URL; it goes with all that it was granted."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'p'").format(sql.Identifier(name)))
        # What every role may in a fresh database, a careful administrator has taken away.
        base = sql.Identifier(url.rpartition("/")[2])
        admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(base))
        admin.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    try:
        yield f"postgresql://{name}:p@{url.rpartition('@')[2]}"
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(name)))


def grant(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        for statement in statements:
            admin.execute(statement.encode())


def objects(url: str) -> list[Any]:
    """Everything that a database's catalogue names outside of Postgres's own schemas, and who may what with it."""
    with psycopg.connect(url) as connection:
        return (
            connection.execute(
                "SELECT n.nspname, c.relname, c.relacl::text, c.relkind FROM pg_class c JOIN pg_namespace n"
                " ON n.oid = c.relnamespace WHERE n.nspname !~ '^(pg_|information_schema)' ORDER BY 1, 2"
            ).fetchall()
            + connection.execute("SELECT nspname, nspacl::text FROM pg_namespace ORDER BY 1").fetchall()
        )


URL = {"medzen": "SUPABASE_DB_URL", "lesson-assets": "DATABASE_URL"}
ROLES = {"medzen": ("anon", "authenticated", "service_role"), "lesson-assets": ()}


def reading(one: World, name: str, *schemas: str) -> None:
    """What a role needs that only looks."""
    base = one.url.rpartition("/")[2]
    grant(one.url, f'GRANT CONNECT, TEMPORARY ON DATABASE "{base}" TO {name}')
    for schema in schemas:
        grant(one.url, f"GRANT USAGE ON SCHEMA {schema} TO {name}")
        grant(one.url, f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {name}")
    grant(one.url, f"ALTER ROLE {name} BYPASSRLS NOINHERIT", *(f"GRANT {other} TO {name}" for other in ROLES[one.name]))


@pytest.mark.parametrize("name", ["medzen"])
def test_what_only_looks_needs_no_right_to_write(
    name: str, run: Run, tmp_path: Path, new_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worlds, "planted", lambda value, everywhere: value)
    with world(name, tmp_path, new_database) as one, role(one.url, "looks_only") as url:
        reading(one, "looks_only", "public")
        if one.name == "medzen":
            grant(one.url, "GRANT USAGE ON SCHEMA auth TO looks_only")
        before = objects(one.url)
        first = {c: run(one, *c, **{URL[name]: url}) for c in LOOKS}
        assert first["plan", "--json"][0] == 0, first["plan", "--json"]
        assert all(code != 6 for code, _, _ in first.values()), first
        code, out, _ = first["check",]
        assert (code, "this user may not insert" in out) == (2, True)
        assert objects(one.url) == before

        assert run(one, "apply")[0] == 3
        reading(one, "looks_only", "resettle")
        after = {c: run(one, *c, **{URL[name]: url}) for c in LOOKS}
        assert after["plan", "--json"][0] == 0
        planned = json.loads(after["plan", "--json"][1])
        assert planned["writes"] == 0
        assert (after["verify", "--json"][0], json.loads(after["verify", "--json"][1])["findings"]) == (0, {})
        assert after["status",][0] == after["runs",][0] == after["held", "list"][0] == 0
        unit = json.loads(run(one, "held", "list", "--json", **{URL[name]: url})[1])["held"][0]["unit"]
        assert run(one, "trace", unit, **{URL[name]: url})[0] == 0
        assert run(one, "rollback", "1", **{URL[name]: url})[0] == 0
        assert run(one, "apply", **{URL[name]: url})[0] == 6


def test_a_ledger_that_may_not_be_read_is_said_and_not_taken_for_none(
    run: Run, tmp_path: Path, new_database: Database
) -> None:
    with world("lesson-assets", tmp_path, new_database) as one, role(one.url, "looks_only") as url:
        assert run(one, "apply")[0] == 3
        reading(one, "looks_only", "public")
        code, _, said = run(one, "plan", DATABASE_URL=url)
        assert (code, "permission denied" in said) == (6, True)


@pytest.mark.parametrize(("name", "ledger_is_there"), [("medzen", False), ("lesson-assets", True)])
def test_the_rights_that_check_names_are_enough(
    name: str, ledger_is_there: bool, run: Run, tmp_path: Path, new_database: Database
) -> None:
    """A role with exactly these applies, applies again, verifies, and with those for a rollback undoes it all."""
    with world(name, tmp_path, new_database) as one, role(one.url, "resettle_user") as url:
        if ledger_is_there:
            assert run(one, "apply", "--limit", "3")[0] in (0, 3)
            assert run(one, "rollback", "1", "--execute")[0] == 0
        named = {p["connection"]: p for p in json.loads(run(one, "check", "--privileges", "--json")[1])["privileges"]}
        asked = named["supabase" if name == "medzen" else "db"]
        as_role = {URL[name]: url}
        assert run(one, "apply", **as_role)[0] in (1, 6)
        grant(one.url, *asked["apply"])
        code, out, err = run(one, "check", **as_role)
        assert (code, "may not" in out) == (0, False), out + err
        code, out, err = run(one, "apply", "--json", **as_role)
        assert code == 3, out + err
        done = {flow["flow"]: flow["done"] for flow in json.loads(out)["flows"]}
        assert all(done.values())
        again = json.loads(run(one, "apply", "--json", **as_role)[1])
        assert not any(flow["done"] for flow in again["flows"])
        code, out, err = run(one, "verify", "--json", **as_role)
        assert (code, json.loads(out)["findings"]) == (0, {}), err
        number = str(json.loads(run(one, "runs", "--json", **as_role)[1])["runs"][1]["run"])
        assert run(one, "rollback", number, "--execute", **as_role)[0] in (1, 3, 6) or not asked["rollback"]
        grant(one.url, *asked["rollback"])
        code, out, err = run(one, "rollback", number, "--execute", "--json", **as_role)
        assert code == 0, out + err


def test_the_rights_are_no_more_than_is_used(run: Run, tmp_path: Path, new_database: Database) -> None:
    """Without any one of those on the tables, an apply, a second one or a verification fails."""
    with world("medzen", tmp_path, new_database) as one:
        said = json.loads(run(one, "check", "--privileges", "--json")[1])["privileges"]
        (asked,) = (p["apply"] for p in said if p["connection"] == "supabase")
        needed = [line for line in asked if "video_call_sessions" in line]
        assert [line.split()[1] for line in needed] == ["SELECT", "INSERT", "UPDATE"]
        for missing in needed:
            with role(one.url, "resettle_user") as url:
                grant(one.url, *(line for line in asked if line != missing))
                codes = {run(one, command, SUPABASE_DB_URL=url)[0] for command in ("check", "apply")}
                assert codes & {1, 2, 6}, missing
                grant(one.url, "DROP SCHEMA IF EXISTS resettle CASCADE")


def test_check_prints_statements_to_be_copied(run: Run, tmp_path: Path, new_database: Database) -> None:
    with world("medzen", tmp_path, new_database) as one:
        _, out, _ = run(one, "check", "--privileges")
        assert '  GRANT USAGE ON SCHEMA "public" TO "resettle_user";' in out
        assert '  CREATE SCHEMA "resettle" AUTHORIZATION "resettle_user";' in out
        assert "privileges" not in run(one, "check", "--json")[1]


def test_every_service_names_what_its_user_needs(run: Run, tmp_path: Path, new_database: Database) -> None:
    with world("amplify", tmp_path, new_database) as one:
        said = json.loads(run(one, "check", "--privileges", "--json")[1])["privileges"]
    named = {p["connection"]: " ".join(p["apply"] or ()) for p in said}
    rollback = {p["connection"]: " ".join(p["rollback"]) for p in said}
    assert "auth/drive.readonly" in named["drive"]
    assert {"s3:ListBucket", "s3:PutObject"} <= {word for word in named["storage"].split() if word.startswith("s3:")}
    assert "s3:DeleteObject" not in named["storage"]
    assert "s3:DeleteObject" in rollback["storage"]
    assert {"Mutation.createMedia", "Query.getMedia"} <= set(named["api"].split())
    assert "Mutation.deleteMedia" not in named["api"]
    assert "Mutation.deleteMedia" in rollback["api"]


READS = {"GET", "HEAD"}


@pytest.mark.parametrize("name", ["omt", "amplify"])
def test_what_only_looks_sends_no_request_that_writes(
    name: str, run: Run, tmp_path: Path, new_database: Database
) -> None:
    """As the stand-ins saw it: S3, R2, AppSync and Drive; before any apply and after one."""
    with world(name, tmp_path, new_database) as one:
        parts = one.services
        assert parts

        def writes() -> list[str]:
            return [f"{part}: {said}" for part, service in parts.items() for said in _writes(service)]

        def look() -> None:
            before = writes()
            for command in LOOKS:
                run(one, *command)
            assert writes() == before

        look()
        assert run(one, "apply")[0] == 3
        assert writes()
        look()


def _writes(service: Any) -> list[str]:
    """Requests of a stand-in that change something."""
    found = []
    for asked in service.requests:
        if isinstance(asked, str):
            found += [asked] if asked.split()[0] not in READS else []
        elif isinstance(asked, list):
            found += [name for name in asked if name.startswith(("create", "update", "delete"))]
        elif asked.path != "/token":  # Drive's: whoever signs in sends her credentials
            found += [f"{asked.method} {asked.path}"] if asked.method not in READS else []
    return found


def test_a_sqlite_file_is_opened_for_reading_by_what_only_looks(
    make: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(records=[{"id": "a", "name": "Ann", "age": 1}, {"id": "b", "name": None, "age": 1}])
    path = folder.root / "app.sqlite"
    opened: list[str] = []
    connect = sqlite3.connect

    def watch(place: Any, *given: Any, **named: Any) -> sqlite3.Connection:
        opened.append(str(place))
        return connect(place, *given, **named)

    monkeypatch.setattr(_sqlite_statements.sqlite3, "connect", watch)

    def look() -> None:
        opened.clear()
        before = (path.read_bytes(), sorted(one.name for one in folder.root.glob("[!.]*")))
        codes = {command: folder.run(*command).code for command in LOOKS}
        assert codes["check",] == codes["plan", "--json"] == codes["held", "list"] == 0
        assert opened
        assert all(one.endswith("?mode=ro") for one in opened), opened
        assert (path.read_bytes(), sorted(one.name for one in folder.root.glob("[!.]*"))) == before

    look()
    assert folder.run("apply").code == 3
    path.chmod(0o444)
    look()
