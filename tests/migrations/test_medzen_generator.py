"""medzen's made-up source is the same every time and has the form of a real export to S3."""

import base64
import gzip
import hashlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from resettle.sandbox.module import module_at

PLACE = Path(__file__).parents[2] / "migrations" / "medzen" / "sandbox" / "generate.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return module_at(PLACE)


def lines(folder: Path, table: str) -> list[bytes]:
    """Every line of a table, in the order of the manifest; each file checked against it."""
    (summary_at,) = folder.glob(f"{table}/AWSDynamoDB/*/manifest-summary.json")
    summary = json.loads(summary_at.read_bytes())
    found: list[bytes] = []
    for line in (folder / summary["manifestFilesS3Key"]).read_bytes().splitlines():
        entry = json.loads(line)
        content = (folder / entry["dataFileS3Key"]).read_bytes()
        assert base64.b64encode(hashlib.md5(content).digest()).decode() == entry["md5Checksum"]
        items = gzip.decompress(content).splitlines()
        assert len(items) == entry["itemCount"]
        found += items
    assert len(found) == summary["itemCount"]
    return found


def test_the_same_arguments_give_the_same_bytes(generator: ModuleType, tmp_path: Path) -> None:
    for name in ("first", "second"):
        generator.generate(tmp_path / name, 500)
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("first", "second")
    )
    assert first == second


@pytest.mark.parametrize("shape", ["documented", "real"])
def test_the_manifests_tell_what_the_data_files_hold(generator: ModuleType, tmp_path: Path, shape: str) -> None:
    generator.generate(tmp_path, 400, audit_shape=shape)
    for table in (generator.SESSIONS, generator.NOTES, generator.AUDIT):
        items = [json.loads(line)["Item"] for line in lines(tmp_path, table)]
        key = ("pk", "sk") if shape == "real" and table == generator.AUDIT else ("id",)
        keys = [tuple(item[name]["S"] for name in key) for item in items]
        assert len(set(keys)) == len(keys) - (table == generator.AUDIT and shape == "documented")
        assert any(path.stat().st_size < 30 for path in tmp_path.glob(f"{table}/**/*.gz")), "one is empty"
    for manifest in tmp_path.rglob("manifest-*.json"):
        digest = base64.b64encode(hashlib.md5(manifest.read_bytes()).digest())
        assert manifest.with_suffix(".md5").read_bytes() == digest


def test_a_hundredth_changed_is_a_hundredth_and_only_in_status_and_time(generator: ModuleType, tmp_path: Path) -> None:
    generator.generate(tmp_path / "before", 5000, messy=False)
    generator.generate(tmp_path / "after", 5000, messy=False, changed=0.01)
    counts = {generator.SESSIONS: {50}, generator.NOTES: range(10, 45), generator.AUDIT: {0}}
    for table, expected in counts.items():
        pairs = zip(lines(tmp_path / "before", table), lines(tmp_path / "after", table), strict=True)
        different = [(json.loads(old)["Item"], json.loads(new)["Item"]) for old, new in pairs if old != new]
        assert len(different) in expected
        for old, new in different:
            assert {name for name in old if old[name] != new[name]} == {"status", "updatedAt"}
            assert old.keys() == new.keys()


def test_every_note_and_event_belongs_to_a_session(generator: ModuleType, tmp_path: Path) -> None:
    generator.generate(tmp_path, 300, messy=False)
    sessions = {json.loads(line)["Item"]["id"]["S"] for line in lines(tmp_path, generator.SESSIONS)}
    for table in (generator.NOTES, generator.AUDIT):
        assert {json.loads(line)["Item"]["sessionId"]["S"] for line in lines(tmp_path, table)} <= sessions


def test_the_messy_items_are_named_once_and_are_in_the_export(generator: ModuleType, tmp_path: Path) -> None:
    generator.generate(tmp_path, 10)
    assert len({each.name for each in generator.MESSY}) == len(generator.MESSY)
    for each in generator.MESSY:
        assert each.outcome in ("done", "held")
        assert each.outcome == "done" or each.expect.keys() == {"reason"}
        items = [json.loads(line)["Item"] for line in lines(tmp_path, each.table)]
        assert each.item in items, each.name
