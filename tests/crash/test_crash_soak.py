"""Runs that are killed at random moments (SIGKILL), again and again, each then gone on with to its end.

Several files and requests at a time, so that a kill also meets what is half sent.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from random import Random

import pytest

from tests.crash.matrix import Matrix
from tests.crash.points import MIGRATIONS

MatrixOf = Callable[[str], Matrix]
KILLS, MANY = 2, 40
"""Kills of each migration: every time, and in the extended tests."""
STARTS = (("empty", "apply"), ("revised", "apply"), ("revised", "apply"), ("applied", "rollback"))


def soak(matrix: Matrix, seed: str, kills: int) -> int:
    """So many kills; how many of them came before the end of the run."""
    rng, world = Random(seed), matrix.world
    killed = done = 0
    while done < kills:
        state, phase = rng.choice(STARTS)
        calm = matrix.undisturbed(state, phase)
        world.at(state)
        options = {**world.options, "concurrency": 4}
        for _ in range(min(rng.choice((1, 1, 2, 3)), kills - done)):
            ended = world.go(phase, options=options, kill_after=rng.uniform(0, calm.seconds))
            assert ended.code in (0, -signal.SIGKILL)
            killed += ended.code != 0
            done += 1
        matrix.continue_and_compare(calm, phase)
    return killed


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_runs_that_are_killed_at_any_moment_are_made_good(matrix_of: MatrixOf, migration: str) -> None:
    soak(matrix_of(migration), f"short {migration}", KILLS)


@pytest.mark.extended
@pytest.mark.parametrize("migration", MIGRATIONS)
def test_two_hundred_kills_lose_and_double_nothing(matrix_of: MatrixOf, migration: str) -> None:
    assert soak(matrix_of(migration), f"long {migration}", MANY) > MANY // 2, "too many runs were done before they died"
