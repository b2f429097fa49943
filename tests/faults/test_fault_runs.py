"""Whole runs on bad days: the five migrations, each service of theirs under a schedule of its own.

Each is repeated by `pytest tests/faults -k "run and MIGRATION" --seed N`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.crash.stores import counted
from tests.faults.migrating import WORLDS, in_this_process, live_through, world
from tests.faults.services import Tally
from tests.faults.virtual import virtual
from tests.faults.wire import wired

USUAL, EXTENDED = 2, 100
"""Schedules of each migration in `make test`, and after them in `make test-extended`."""
SLOW = ("omt", "lesson-assets")
"""Migrations that mint ids: a calm run takes two more to prove it. `make test` begins with nothing only."""


def live(migration: str, folder: Path, postgres: str, seeds: Iterable[int]) -> None:
    tally = Tally()
    with (
        in_this_process(),
        virtual() as time,
        wired(postgres) as wire,
        counted(),
        world(migration, folder, postgres, wire) as (matrix, between),
    ):
        for seed in seeds:
            try:
                state = "revised" if seed % 2 and (seed > USUAL or migration not in SLOW) else "empty"
                live_through(matrix, between, state, seed, time, tally)
            except Exception as error:
                error.add_note(f"schedule {seed}: pytest tests/faults -k 'run and {migration}' --seed {seed}")
                raise
    print(dict(tally))
    assert tally["disturbed"]


@pytest.mark.parametrize("migration", WORLDS)
def test_a_run_ends_as_a_calm_one_or_the_next_does(
    migration: str, tmp_path: Path, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    seed, asked = request.config.getoption("seed"), request.config.getoption("schedules")
    live(migration, tmp_path, postgres_url, range(asked or USUAL - (migration in SLOW)) if seed is None else [seed])


@pytest.mark.extended
@pytest.mark.parametrize("migration", WORLDS)
def test_many_more_runs_end_as_a_calm_one_or_the_next_does(migration: str, tmp_path: Path, postgres_url: str) -> None:
    live(migration, tmp_path, postgres_url, range(USUAL, USUAL + EXTENDED))
