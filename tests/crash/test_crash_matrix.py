"""A run that dies at any point is simply run again: data and memory end as if it had not died.

Every point of `points.POINTS`, before and after, for each migration. Each death is followed by a look at what is left;
where a run was gone on with from the very same state before, that is not done again, but in the extended tests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.matrix import Matrix
from tests.crash.points import MIGRATIONS, POINTS, SIDES, Point
from tests.crash.states import FIRST
from tests.crash.zygote import DIED

MatrixOf = Callable[[str], Matrix]
RUNS = [
    pytest.param(migration, phase, point, id=f"{migration}-{phase}-{point.name}")
    for migration in MIGRATIONS
    for point in POINTS
    for phase in point.phases
    if phase != "plan"
]
PLANNED = [point for point in POINTS if "plan" in point.phases]


def die_everywhere(matrix: Matrix, point: Point, phase: str, *, thorough: bool) -> None:
    calm = matrix.undisturbed(matrix.start(point, phase), phase)
    counts = {side: calm.passed.get((point.name, side), 0) for side in SIDES}
    if matrix.world.migration in point.not_passed:
        assert set(counts.values()) == {0}, "it is passed: say so"
        return
    assert point.settings or 0 not in counts.values(), "nobody passes here: say so in `not_passed`"
    for side in SIDES:
        for nth in point.passings(counts[side], thorough=thorough):
            matrix.die(point, phase, side, nth, thorough=thorough)


@pytest.mark.parametrize(("migration", "phase", "point"), RUNS)
def test_a_run_that_died_is_made_good_by_the_next_one(
    matrix_of: MatrixOf, migration: str, phase: str, point: Point
) -> None:
    die_everywhere(matrix_of(migration), point, phase, thorough=False)


@pytest.mark.extended
@pytest.mark.parametrize(("migration", "phase", "point"), RUNS)
def test_each_death_alone_is_made_good_by_a_run_of_its_own(
    matrix_of: MatrixOf, migration: str, phase: str, point: Point
) -> None:
    die_everywhere(matrix_of(migration), point, phase, thorough=True)


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_a_plan_that_died_leaves_the_older_one_whole_or_is_there(
    matrix_of: MatrixOf, migration: str, tmp_path: Path
) -> None:
    world = matrix_of(migration).world
    world.at("revised")
    before, path = world.found(), tmp_path / "it.plan"
    assert world.go("plan", path=str(path), now=FIRST).code == 0
    older = path.read_bytes()
    assert world.go("plan", path=str(path)).code == 0
    newer = path.read_bytes()
    assert older != newer
    for point in PLANNED:
        for side in SIDES:
            path.write_bytes(older)
            assert world.go("plan", path=str(path), point=point.name, side=side, nth=1).code == DIED
            named = (point.name, side) == ("plan file named", "after")
            assert path.read_bytes() == (newer if named else older)
            begun = [*tmp_path.glob(".*.partial")]
            assert bool(begun) is (not named and (point.name, side) != ("plan file begun", "before"))
            for one in begun:
                one.unlink()
    path.write_bytes(older)
    assert world.go("plan", path=str(path)).code == 0
    assert path.read_bytes() == newer
    assert world.found() == before, "a plan writes nothing but its own file"


AGAIN = (("ledger record", "after", 1), ("batch", "after", 1), ("batch decided", "before", 1), ("batch", "before", 2))
"""Deaths one after the other, each of a run that was to make the one before good."""


@pytest.mark.parametrize("migration", ["mirubato", "omt"])
def test_a_run_may_die_again_and_again(matrix_of: MatrixOf, migration: str) -> None:
    matrix = matrix_of(migration)
    calm = matrix.undisturbed("revised", "apply")
    matrix.world.at("revised")
    for name, side, nth in AGAIN:
        assert matrix.world.go("apply", point=name, side=side, nth=nth).code == DIED
    matrix.continue_and_compare(calm, "apply")
    assert matrix.world.effects() == calm.effects
    again = matrix.world.go("apply", options={**matrix.world.options, "fresh": True})
    assert (again.code, again.said["written"]) == (0, 0)
    assert matrix.world.effects() == calm.effects


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_a_first_run_may_die_before_anything_is_there(matrix_of: MatrixOf, migration: str) -> None:
    matrix = matrix_of(migration)
    calm = matrix.undisturbed("empty", "apply")
    matrix.world.at("empty")
    assert matrix.world.go("apply", point="batch decided", side="after", nth=1).code == DIED
    assert matrix.world.found().traces == calm.begun.traces
    matrix.continue_and_compare(calm, "apply")
    assert matrix.world.effects() == calm.effects
