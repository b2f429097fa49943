"""The crash table of docs/guarantees.md is what the points say, no more and no less."""

from __future__ import annotations

import re

from tests.crash.points import MIGRATIONS, POINTS
from tests.crash.table import PAGE, PART, table


def test_the_table_of_the_guarantees_is_made_of_the_points() -> None:
    found = PART.search(PAGE.read_text("utf-8"))
    assert found, "the table has its place between two comments"
    assert found[2] == table(), "run: python -m tests.crash.table"


def test_every_point_has_one_name_and_every_name_is_a_point() -> None:
    names = [point.name for point in POINTS]
    assert len(set(names)) == len(names)
    told = PART.search(PAGE.read_text("utf-8"))
    assert told
    assert re.findall(r"^\| `([^`]+)` \|", told[2], re.MULTILINE) == names


def test_every_point_is_passed_by_some_migration() -> None:
    for point in POINTS:
        assert set(point.not_passed) < set(MIGRATIONS), point.name
