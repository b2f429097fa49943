"""The throw-away Postgres starts, is what Supabase's policies expect, and leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from resettle.errors import ConfigError
from resettle.sandbox.postgres import Postgres, start_postgres, supabase_roles

USER = "4ac5453b-0000-4000-8000-000000000001"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with start_postgres() as running:
        yield running


def test_stop_leaves_no_process_and_no_folder() -> None:
    server = start_postgres()
    with psycopg.connect(server.url):  # an open client does not hold the server back
        server.stop()
    assert server.process.returncode == 0
    assert not server.home.exists()
    server.stop()


def test_it_listens_on_this_machine_only_and_asks_for_a_password(server: Postgres) -> None:
    with psycopg.connect(server.url) as connection:
        assert connection.execute("show listen_addresses").fetchone() == ("127.0.0.1",)
    without_password = psycopg.conninfo.conninfo_to_dict(server.url) | {"password": "wrong"}
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(**without_password)


def test_the_roles_are_there_in_every_database_that_asks(server: Postgres) -> None:
    for name in ("first", 'the "second"'):
        url = server.create_database(name)
        supabase_roles(url)
        supabase_roles(url)
    with psycopg.connect(url) as connection:
        roles = connection.execute("select rolname, rolbypassrls, rolcanlogin from pg_roles").fetchall()
        assert {
            ("anon", False, False),
            ("authenticated", False, False),
            ("service_role", True, False),
            ("authenticator", False, True),
        } <= set(roles)


def test_a_policy_sees_the_user_of_the_token(server: Postgres) -> None:
    supabase_roles(server.url)
    claims = f'{{"sub": "{USER}", "role": "authenticated"}}'
    with psycopg.connect(server.url) as connection:
        connection.execute("set local role authenticated")
        assert connection.execute("select auth.uid(), auth.role()").fetchone() == (None, None)
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        row = connection.execute("select auth.uid()::text, auth.role(), auth.jwt() ->> 'sub'").fetchone()
    assert row == (USER, "authenticated", USER)


def test_a_folder_keeps_its_databases_and_its_password(tmp_path: Path) -> None:
    with start_postgres(tmp_path / "kept") as server:
        url = server.create_database("kept")
    with start_postgres(tmp_path / "kept") as again:
        assert psycopg.conninfo.conninfo_to_dict(again.url)["password"] in url
        with psycopg.connect(again.url) as connection:
            assert connection.execute("select 1 from pg_database where datname = 'kept'").fetchone()
    assert (tmp_path / "kept" / "data" / "PG_VERSION").exists()


def test_a_folder_in_use_is_refused_with_the_servers_own_reason(tmp_path: Path) -> None:
    with start_postgres(tmp_path / "busy"), pytest.raises(ConfigError, match="already exists"):
        start_postgres(tmp_path / "busy")


def test_medzens_schema_shows_a_session_to_its_two_parties_only(server: Postgres) -> None:
    schema = Path(__file__).parents[2] / "migrations" / "medzen" / "sandbox" / "schema.sql"
    url = server.create_database("medzen")
    supabase_roles(url)
    with psycopg.connect(url) as connection:
        connection.execute(schema.read_text())
        connection.execute(
            "insert into video_call_sessions (id, appointment_id, provider_id, patient_id, status)"
            " select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), patient, 'ACTIVE'"
            " from unnest(array[%s, gen_random_uuid()]) patient",
            [UUID(USER)],
        )
        connection.execute(
            "insert into video_call_audit_log (id, session_id, event_type)"
            " select gen_random_uuid(), id, 'CALL_JOINED' from video_call_sessions"
        )
        seen = "select (select count(*) from video_call_sessions), (select count(*) from video_call_audit_log)"
        connection.execute("set local role service_role")
        assert connection.execute(seen).fetchone() == (2, 2)
        connection.execute("set local role authenticated")
        connection.execute("select set_config('request.jwt.claims', %s, true)", [f'{{"sub": "{USER}"}}'])
        assert connection.execute(seen).fetchone() == (1, 1)
        connection.execute("set local role anon")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select from clinical_notes")
