"""One matrix for each migration, made when it is first asked for and shared by all tests of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.crash.matrix import Matrix
from tests.crash.stores import counted
from tests.crash.worlds import world
from tests.crash.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running


@pytest.fixture(scope="session")
def matrix_of(
    zygote: Zygote, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Matrix]]:
    made: dict[str, Matrix] = {}
    with ExitStack() as opened, counted():

        def of(migration: str) -> Matrix:
            if migration not in made:
                folder = tmp_path_factory.mktemp("crash")
                made[migration] = Matrix(opened.enter_context(world(migration, zygote, folder, postgres_url)))
            return made[migration]

        yield of
