"""What we write is for its owner alone, whatever the umask and whatever lay there before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resettle import private
from resettle.errors import ConfigError
from tests.security.conftest import Folder

Make = Callable[..., Folder]
RECORDS = [{"id": "a", "name": "Ann", "age": 30}, {"id": "b", "name": None, "age": 1}]
S3_ALONE = """
migration: shut
connections:
  src: {type: files, path: data}
  app: {type: sqlite, path: app.sqlite}
  own: {type: sqlite, path: .resettle/ledger.sqlite, create: true}
ledger: {connection: own}
flows:
  people: {from: src.people, unit: id, into: app.people, columns: {id: id, name: name, age: age}}
"""


@pytest.fixture(autouse=True)
def _everybody_may() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_nothing_that_the_commands_write_is_for_others(make: Make) -> None:
    folder = make(S3_ALONE, records=RECORDS)
    for command in (
        ("plan", "--out", str(folder.root / "first.plan")),
        ("apply", str(folder.root / "first.plan")),
        ("held", "export", str(folder.root / "held.csv")),
        ("export", str(folder.root / "kept")),
    ):
        folder.run(*command)
    made = [folder.root / "first.plan", folder.root / "held.csv", *(folder.root / "kept").iterdir()]
    made += [path for path in (folder.root / ".resettle").rglob("*") if path.is_file()]
    assert {"first.plan", "held.csv", "people.jsonl.gz", "manifest.json", "ledger.sqlite"} <= {p.name for p in made}
    assert any(path.suffix == ".jsonl" for path in made)
    assert {mode(path) for path in made} == {0o600}
    assert {mode(folder.root / name) for name in (".resettle", ".resettle/logs", "kept")} == {0o700}
    assert not [path.name for path in folder.root.rglob("*.partial")]


def test_the_ledger_of_targets_without_tables_is_for_its_owner_alone(tmp_path: Path) -> None:
    from resettle.connections import Connections
    from resettle.mapping.load import load

    (tmp_path / "migration.yaml").write_text(S3_ALONE.replace("ledger: {connection: own}\n", ""))
    with Connections(load(tmp_path)) as connections:
        connections._own_file().execute("CREATE TABLE t (a)")
    assert (mode(tmp_path / ".resettle"), mode(tmp_path / ".resettle" / "ledger.sqlite")) == (0o700, 0o600)


def test_what_was_open_to_others_before_is_closed(make: Make) -> None:
    folder = make(S3_ALONE, records=RECORDS)
    folder.run("apply")
    for name in ("first.plan", "held.csv", ".resettle/ledger.sqlite"):
        path = folder.root / name
        path.touch()
        path.chmod(0o666)
    for name in (".resettle", ".resettle/logs"):
        (folder.root / name).chmod(0o777)
    folder.run("plan", "--out", str(folder.root / "first.plan"))
    folder.run("apply")
    folder.run("held", "export", str(folder.root / "held.csv"))
    for name in ("first.plan", "held.csv", ".resettle/ledger.sqlite"):
        assert (name, mode(folder.root / name)) == (name, 0o600)
    assert mode(folder.root / ".resettle") == mode(folder.root / ".resettle" / "logs") == 0o700


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("first.plan", ("plan", "--out")),
        ("held.csv", ("held", "export")),
        (".resettle", ()),
        (".resettle/logs", ()),
        (".resettle/ledger.sqlite", ()),
        ("kept/manifest.json", ("export",)),
        ("kept/people.jsonl.gz", ("export",)),
    ],
)
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_that_lies_there_is_not_followed(
    name: str, command: tuple[str, ...], dangling: bool, make: Make, tmp_path: Path
) -> None:
    folder = make(S3_ALONE, records=RECORDS)
    aim, link = tmp_path / "aim", folder.root / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not dangling and name in (".resettle", ".resettle/logs"):
        aim.mkdir()
    elif not dangling:
        aim.write_text("theirs")
    link.symlink_to(aim)
    folder.run("apply")
    if command:
        said = folder.run(*command, str(link.parent if command == ("export",) else link))
        assert (said.code, "link" in said.err or "exists" in said.err) == (2, True)
    else:
        assert folder.said[-1].code == 2
    assert link.is_symlink()
    if dangling:
        assert not aim.exists()
    else:
        assert not [*aim.iterdir()] if aim.is_dir() else aim.read_text() == "theirs"


def test_a_device_or_a_folder_is_never_replaced(tmp_path: Path) -> None:
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(ConfigError), private.replacing(path):
            pytest.fail("something was begun")


def test_a_file_that_is_not_whole_is_not_there_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    path.write_text("old")

    def write() -> None:
        with private.replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [one.name for one in tmp_path.iterdir()] == ["plan"]
    assert path.read_text() == "old"
