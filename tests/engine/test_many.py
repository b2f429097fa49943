"""Many: what is kept in parts and read a page at a time says what it would say in one piece."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from resettle.cli import main
from resettle.engine import uniques
from resettle.engine.uniques import Uniques
from resettle.ledger import listing, postgres, sqlite
from resettle.ledger.records import joined
from tests.engine.conftest import MakeProject, people, person, statuses

EDGES = [-(2**63), 2**63 - 1, 0, -1, *uniques._EDGES.tolist(), *(uniques._EDGES - 1).tolist()]


@pytest.mark.parametrize("seed", range(5))
def test_a_set_of_hashes_knows_what_was_added_and_what_came_with_it_first(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uniques, "CHUNK", 50)
    chance = random.Random(seed)
    pool = [*EDGES, *(chance.randrange(-(2**63), 2**63) for _ in range(300))]
    kept, reference = Uniques(), dict[int, int]()
    assert not kept
    for _ in range(60):
        asked = [chance.choice(pool) for _ in range(chance.randrange(40))]
        hashes, beside = np.array(asked, np.int64), np.array([chance.randrange(9) for _ in asked], np.int64)
        assert kept.seen(hashes).tolist() == [one in reference for one in asked]
        again = [one in reference or one in asked[:at] for at, one in enumerate(asked)]
        assert kept.repeated(hashes).tolist() == again
        new = np.array([not one for one in again], np.bool_)
        kept.add(hashes[new], beside[new])
        reference |= zip(hashes[new].tolist(), beside[new].tolist(), strict=True)
        assert kept.companions(hashes) == {one: reference[one] for one in asked}
        assert bool(kept) is bool(reference)


def test_parts_are_joined_in_order() -> None:
    parts = [np.array([5, -1], np.int64), np.array([], np.int64), np.array([3], np.int64)]
    assert joined(parts).tolist() == [-1, 3, 5]
    assert parts == []
    assert joined([]).tolist() == []


def test_hashes_of_settled_records_are_read_in_parts(
    project: MakeProject, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = project(target=database, people=people(500))
    p.apply()
    monkeypatch.setattr(postgres, "BLOCKS", 1)
    monkeypatch.setattr(sqlite, "PAGE", 7)
    with p.ledger() as ledger:
        assert len(set(ledger.seen("people").done.tolist())) == 500
    assert statuses(p.apply()) == {"unchanged": 500}


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_held_records_are_read_a_page_at_a_time_by_reason_and_key(
    project: MakeProject, database: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [{"age": "many"}, {"name": None}, {}]
    p = project(target=database, people=[person(number) | bad[number % 3] for number in range(30)])
    p.apply()
    monkeypatch.setattr(listing, "PAGE", size)
    with p.ledger() as ledger:
        found = [(one["reason"], one["unit"]) for one in ledger.units("held")]
        by_reason = {"cast": range(0, 30, 3), "null": range(1, 30, 3)}
        assert found == [(why, unit) for why, of in by_reason.items() for unit in sorted(f"p{at}" for at in of)]
        assert [one["unit"] for one in ledger.units("held", limit=12)] == [unit for _, unit in found[:12]]
        assert [one["unit"] for one in ledger.units("held", "people", "null")] == [
            u for why, u in found if why == "null"
        ]
        assert [one["reason"] for one in ledger.units("held", unit="p4")] == ["null"]
        assert ledger.units("held", unit="p2") == ledger.units("held", "people", "none") == []


def test_a_short_list_shows_every_reason_and_says_how_many_it_leaves_out(
    project: MakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{"age": "many"}] * 20 + [{"name": None}] * 2
    p = project(people=[person(number) | wrong for number, wrong in enumerate(bad)])
    p.apply()

    def told(*more: str) -> str:
        with pytest.raises(SystemExit):
            main(["held", "list", "--limit", "6", *more, "--migration", str(p.root)])
        return capsys.readouterr().out

    listed = [one["reason"] for one in json.loads(told("--json"))["held"]]
    assert listed == ["cast"] * 4 + ["null"] * 2
    assert "and 16 more" in told()
    assert "more" not in told("--reason", "null")
