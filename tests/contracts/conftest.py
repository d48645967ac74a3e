"""The places that the contract suites run on, made once."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contracts.places import (
    MemoryPlace,
    Place,
    SqlPlace,
    make_template,
    no_postgresql,
    postgresql,
    postgresql_database,
    sqlite_place,
)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template") / "store.db")


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    if why := no_postgresql():
        pytest.skip(why)
    with postgresql() as url:
        yield url


@pytest.fixture(
    params=["memory", "sqlite", pytest.param("postgresql", marks=[pytest.mark.e2e, pytest.mark.slow])],
)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """An empty place for a store, one of each kind."""
    if request.param == "memory":
        yield MemoryPlace()
        return
    if request.param == "sqlite":
        found = sqlite_place(tmp_path, request.getfixturevalue("sqlite_template"))
    else:
        url = request.getfixturevalue("postgresql_url")
        found = SqlPlace(postgresql_database(url, f"store{next(_numbers)}"))
    yield found
    await found.leave()
