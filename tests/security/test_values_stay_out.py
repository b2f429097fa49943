"""Values of records and secrets stay where they belong: a grep over all that is said, written and remembered."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resettle.cli import main
from tests.security.worlds import PLANTED, WORLDS, World, world

Database = Callable[[], str]


class Watched:
    """Runs commands of a world and keeps all that they say."""

    def __init__(self, one: World, capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self._capture, self._patch = one, capture, monkeypatch
        self.said: list[tuple[str, int, str]] = []
        for name, value in one.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("COLUMNS", "400")

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        with self._patch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            self._capture.readouterr()
            with pytest.raises(SystemExit) as stop:
                main([*arguments, "-m", str(self.world.root), "--env", "local"])
            found = self._capture.readouterr()
        assert isinstance(stop.value.code, int)
        self.said.append((" ".join(arguments), stop.value.code, found.out + found.err))
        assert "unexpected" not in found.err, found.err
        return stop.value.code, found.out

    def leaks(self, secrets: list[str]) -> Iterator[str]:
        """Everything planted that is found where it must not be, and where."""
        wanted = re.compile(b"|".join([PLANTED.pattern, *(re.escape(one.encode()) for one in secrets)]))
        for command, _, text in self.said:
            yield from (f"{command}: {_around(text.encode(), found)}" for found in wanted.finditer(text.encode()))
        for path in sorted(self.world.root.rglob("*")):
            if path.is_file() and (".resettle" in path.parts or path.suffix in {".plan", ".csv"}):
                data = path.read_bytes()
                yield from (f"{path.name}: {_around(data, found)}" for found in wanted.finditer(data))
        for table, column, value in self.world.ledger_text():
            text = value if isinstance(value, bytes) else str(value).encode()
            yield from (f"ledger {table}.{column}: {_around(text, found)}" for found in wanted.finditer(text))


def _around(text: bytes, found: re.Match[bytes]) -> bytes:
    return text[max(0, found.start() - 120) : found.end() + 40]


@pytest.mark.parametrize("name", WORLDS)
def test_no_value_and_no_secret_is_said_written_or_remembered(
    name: str,
    tmp_path: Path,
    new_database: Database,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with world(name, tmp_path, new_database) as one:
        watched = Watched(one, capfd, monkeypatch)
        plan = str(one.root / "first.plan")
        watched.run("check", "-v")
        watched.run("profile", "--json")
        watched.run("plan", "--out", plan, "-v", "--samples", "100")
        watched.run("rehearse", "-v")
        code, _ = watched.run("apply", plan, "-v")
        assert code == 3
        watched.run("apply", "--json", "-v")
        watched.run("verify", "--json", "-v")
        for command in ("status", "runs", "show"):
            watched.run(command, "-v")
            watched.run(command, "--json")
        watched.run("status", "--drift")
        held = json.loads(watched.run("held", "list", "--json", "--limit", "1000")[1])["held"]
        watched.run("held", "list", "-v", "--limit", "1000")
        watched.run("held", "export", str(one.root / "held.csv"))
        for number, unit in enumerate(list({h["reason"]: h["unit"] for h in held}.values())[:4]):
            watched.run("held", "show", unit, *(["--json"] if number % 2 else ["-v"]))
            watched.run("trace", unit, "-v")
        watched.run("held", "replay", "-v")
        watched.run("rollback", "1", "-v")
        watched.run("rollback", "1", "--execute", "-v")
        watched.run("export", str(tmp_path / "exported"), "-v")
        assert [*watched.leaks(one.secrets)] == []
        assert held
        exported = b"".join(gzip.decompress(path.read_bytes()) for path in (tmp_path / "exported").glob("*.gz"))
        assert PLANTED.search(exported), "nothing was planted"
