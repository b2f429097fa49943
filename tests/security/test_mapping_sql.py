"""A migration's SQL computes and nothing else: it reaches no file, no network, no setting, no other statement."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pytest

from resettle import private
from resettle.mapping.functions import connect
from tests.security.conftest import FLOW

Make = Callable[..., Any]
ONE = [{"id": "a", "name": "Ann", "age": 30}]


class Web(HTTPServer):
    """Counts who comes."""

    visits = 0


@pytest.fixture
def web() -> Iterator[Web]:
    class Visit(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.visits += 1
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """It is silent."""

    web = Web(("127.0.0.1", 0), Visit)
    thread = threading.Thread(target=web.serve_forever, args=(0.02,))
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()


READS = {
    "read_text": "(select content from read_text('{file}'))",
    "read_blob": "(select content from read_blob('{file}'))",
    "read_csv": "(select * from read_csv('{file}', header = false) limit 1)",
    "read_json": "(select * from read_json('{file}') limit 1)",
    "read_parquet": "(select * from read_parquet('{file}') limit 1)",
    "a file as a table": "(select * from '{file}' limit 1)",
    "glob": "(select file from glob('{folder}/*') limit 1)",
    "sniff_csv": "(select prompt from sniff_csv('{file}'))",
    "a query in a query": "(select content from query('from read_text(''{file}'')'))",
    "the network": "(select content from read_text('http://127.0.0.1:{port}/x'))",
    "a table of the network": "(select * from 'http://127.0.0.1:{port}/x.csv')",
    "a variable of the environment": "getenv('PLANTED')",
    "a variable of Python": "(select * from planted_frame)",
    "a setting's place": "(select * from which_secret('s3://bucket', 's3'))",
}


@pytest.fixture
def planted(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Fills in a file, a folder and a port that SQL would like to reach."""
    secret = tmp_path / "secret.csv"
    secret.write_text("zq_planted_zq\n")
    monkeypatch.setenv("PLANTED", "zq_planted_zq")
    return lambda text: text.format(file=secret, folder=tmp_path, port=web.server_port)


@pytest.mark.parametrize("sql", READS.values(), ids=READS)
def test_no_expression_reads_a_file_or_the_network(
    sql: str, make: Make, planted: Callable[[str], str], web: Web
) -> None:
    expression = planted(sql)
    planted_frame = duckdb.sql("select 1 as a")
    assert planted_frame is not None  # what DuckDB would find among Python's variables
    folder = make(records=ONE)
    text = (folder.root / "migration.yaml").read_text()
    folder.declare(text.replace("name: name,", f'name: "{expression}",'))
    for command in ("check", "plan", "apply"):
        said = folder.run(command)
        assert said.code in (1, 2, 3) or command == "check", said.text
        assert "zq_planted_zq" not in said.text
    assert folder.rows("select * from people") == []
    assert web.visits == 0


@pytest.mark.parametrize("place", ["rows", "a file of rows", "skip", "hold", "where", "a lookup", "count"])
@pytest.mark.parametrize("name", ["read_text", "the network"])
def test_no_other_place_of_a_mapping_reads_a_file_or_the_network(
    place: str, name: str, make: Make, planted: Callable[[str], str], web: Web
) -> None:
    expression = planted(READS[name])
    folder = make(records=ONE)
    text, more = (folder.root / "migration.yaml").read_text(), []
    if place == "rows":
        text += f'    rows: "select *, {expression} as extra from source"\n'
    elif place == "a file of rows":
        (folder.root / "rows.sql").write_text(f"select *, {expression} as extra from source")
        text += "    rows: rows.sql\n"
    elif place == "where":
        more = ["--where", f"{expression} is not null"]
    elif place == "a lookup":
        text += f'lookups:\n  known: {{from: src.people, key: id, value: "{expression}"}}\n'
        text = text.replace("name: name,", "name: {lookup: known, on: id},")
    elif place == "count":
        text += f'    count: {{seen: "{expression} is not null"}}\n'
    else:
        text += f'    {place}: {{seen: "{expression} is not null"}}\n'
    folder.declare(text)
    for command in ("plan", "apply"):
        said = folder.run(command, *more)
        assert said.code in (1, 2, 3), said.text
        assert "zq_planted_zq" not in said.text
    assert folder.rows("select * from people") == []
    assert web.visits == 0


STATEMENTS = (
    "COPY (SELECT 1) TO '{folder}/out.csv'",
    "ATTACH '{folder}/other.db'",
    "EXPORT DATABASE '{folder}/all'",
    "IMPORT DATABASE '{folder}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{file}'",
    "CREATE SECRET (TYPE s3)",
    "SET enable_external_access = true",
    "RESET enable_external_access",
    "SET lock_configuration = false",
    "SET allowed_directories = ['/']",
    "SET allowed_configs = ['allowed_paths']",
    "SET autoload_known_extensions = true",
    "SET temp_directory = '{folder}'",
    "SET home_directory = '{folder}'",
    "SET python_enable_replacements = true",
    "SET memory_limit = '1TB'",
    "PRAGMA enable_external_access = true",
)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_duckdb_itself_refuses_what_reopens_it(statement: str, planted: Callable[[str], str], tmp_path: Path) -> None:
    """Even if a mapping could bring more than a SELECT."""
    database, before = connect(), set(tmp_path.iterdir())
    with pytest.raises(duckdb.Error):
        database.execute(planted(statement))
    assert set(tmp_path.iterdir()) == before
    assert database.execute("SELECT json_at('[7]', '0'), instant('2026-01-01')::text").fetchall() == [
        ("7", "2026-01-01 00:00:00+00")
    ]


@pytest.mark.parametrize(
    "text",
    ["select 1; drop table people", "copy (select 1) to 'out.csv'", "attach 'x.db'", "pragma version", "set a=1"],
)
def test_a_rows_query_is_one_select(text: str, make: Make) -> None:
    folder = make(records=ONE)
    folder.declare((folder.root / "migration.yaml").read_text() + f'    rows: "{text}"\n')
    said = folder.run("plan")
    assert (said.code, "bad SQL" in said.err) == (2, True)


@pytest.mark.parametrize("text", ["name); drop table source; --", "name from source; --", "name, 1", "name where true"])
def test_an_expression_is_one_expression(text: str, make: Make) -> None:
    folder = make(records=ONE)
    folder.declare((folder.root / "migration.yaml").read_text().replace("name: name,", f'name: "{text}",'))
    said = folder.run("plan")
    assert (said.code, "bad SQL" in said.err) == (2, True)


def test_an_assertion_on_sqlite_reaches_no_other_file(make: Make, tmp_path: Path) -> None:
    folder = make(records=ONE)
    assert folder.run("apply").code == 0
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE secrets (value)")
    for sql in (
        f"attach '{tmp_path}/other.sqlite' as other",
        f"vacuum into '{tmp_path}/copy.sqlite'",
        f"select load_extension('{tmp_path}/x')",
        f"select writefile('{tmp_path}/x', 'y')",
        f"select readfile('{tmp_path}/secret')",
        "delete from people",
    ):
        folder.declare(f'{FLOW}verify:\n  assertions:\n    shut: {{sql: "{sql}", expect: 0}}\n')
        before = set(tmp_path.iterdir())
        assert folder.run("verify").code in (2, 6), sql
        assert set(tmp_path.iterdir()) == before
    assert len(folder.rows("select * from people")) == 1


def test_what_does_not_fit_into_memory_goes_to_a_folder_of_its_owner_alone() -> None:
    """DuckDB makes files there that everybody may read, so the folder must be shut."""
    before = os.umask(0)
    try:
        ((place,),) = connect().execute("SELECT current_setting('temp_directory')").fetchall()
    finally:
        os.umask(before)
    assert Path(place) == private.spill()
    assert Path(place).stat().st_mode & 0o777 == 0o700
