"""The report: one page with the verdict, what became of every record, checks, differences and runs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.cli.conftest import Run

NASTY = "<script>alert(1)</script>&amp;"
PEOPLE = [{"id": f"p{n}", "name": f"Secret {n}"} for n in range(8)] + [{"id": NASTY, "name": "Secret X"}]
MIGRATION = """
migration: people
description: Everybody & <all>.
connections:
  src: {type: files, path: data}
  app: {type: sqlite, path: app.sqlite}
flows:
  people:
    from: src.people
    unit: id
    skip: {first: "id = 'p0'"}
    hold: {second: "id in ('p1', 'p2')"}
    into: app.people
    columns: {id: id, name: name}
    summary: {seen: read, made: row.create}
verify:
  assertions: {nobody_twice: {sql: "select 0"}}
"""


class Page(HTMLParser):
    """The texts of a page, and the tags that it opens."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if data.strip() and self.tags[-1] != "style":
            self.texts.append(data.strip())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "people.json").write_text(json.dumps(PEOPLE), "utf-8")
    (tmp_path / "migration.yaml").write_text(MIGRATION, "utf-8")
    with sqlite3.connect(tmp_path / "app.sqlite") as database:
        database.execute("CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)")
    database.close()
    monkeypatch.chdir(tmp_path)
    return tmp_path


Report = Callable[..., tuple[int, Page]]


@pytest.fixture
def report(run: Run, folder: Path) -> Report:
    """Its exit code, and the page."""
    return lambda *more: (run("report", *more)[0], Page(folder / ".resettle" / "report.html"))


def test_the_page_says_what_became_of_every_record_and_who_wrote_when(run: Run, report: Report) -> None:
    assert run("apply")[0] == 3
    code, page = report()
    assert code == 0
    assert "All that was migrated arrived. 2 records are held, for somebody to decide." in page.texts
    flow = page.texts[page.texts.index("people") :]
    assert flow[:9] == ["people", "src.people → app.people", "now there: people 6", "9", "6", "2", "1", "0", "6"]
    for line in (["people", "held", "second", "2"], ["people", "skipped", "first", "1"], ["people", "made", "6"]):
        assert any(page.texts[at : at + len(line)] == line for at in range(len(page.texts))), line
    assert "assertion nobody_twice" in page.texts
    assert [text for text in page.texts if text in ("apply", "held")][-2:] == ["apply", "held"]
    assert "Everybody & <all>." in page.texts


def test_everything_arrived(run: Run, report: Report, folder: Path) -> None:
    (folder / "data" / "people.json").write_text(json.dumps(PEOPLE[3:8]), "utf-8")
    assert run("apply")[0] == 0
    code, page = report()
    assert (code, page.texts[2:4]) == (0, ["Everybody & <all>.", "Everything arrived."])
    assert "Held, failed and skipped" not in page.texts


def test_a_difference_is_the_verdict_and_nothing_of_a_record_but_its_key_is_on_the_page(
    run: Run, report: Report, folder: Path
) -> None:
    run("apply")
    with sqlite3.connect("app.sqlite") as database:
        database.execute("DELETE FROM people WHERE id = ?", [NASTY])
        database.execute("UPDATE people SET name = 'Other' WHERE id = 'p5'")
    database.close()
    code, page = report()
    assert code == 4
    assert any(text.startswith("Not everything is as it should be: 1 ") for text in page.texts)
    assert NASTY in page.texts
    assert "script" not in page.tags
    assert not page.links
    assert "Secret" not in (folder / ".resettle" / "report.html").read_text("utf-8")


def test_before_the_first_apply_nothing_has_arrived(report: Report) -> None:
    code, page = report()
    assert code == 4
    assert "6 not applied" in next(text for text in page.texts if text.startswith("Not everything"))


def test_only_its_owner_reads_it_and_a_part_says_that_it_is_one(run: Run, folder: Path) -> None:
    run("apply")
    assert run("report", "--select", "people", "--sample", "3", "--out", "page.html")[0] == 0
    assert (folder / "page.html").stat().st_mode & 0o777 == 0o600
    last = Page(folder / "page.html").texts[-1]
    assert "(only people), about 3 records of each flow;" in last


def test_as_json_it_is_verifys_answer_and_the_place(run: Run, folder: Path) -> None:
    run("apply")
    code, out, _ = run("report", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["verified"]
    assert Path(said["report"]).is_file()
