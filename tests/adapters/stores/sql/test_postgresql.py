"""PostgreSQL: one server a schema, and a URL whose password is not told."""

import os
from collections.abc import Iterator

import psycopg
import pytest

from paddock.adapters.stores.sql import SqlStore, database_at
from paddock.adapters.stores.sql.postgresql import PostgreSQL
from paddock.core.errors import Broken, Refused
from tests.contracts.places import no_postgresql, postgresql, postgresql_database
from tests.contracts.rows import host


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if why := no_postgresql():
        pytest.skip(why)
    with postgresql() as found:
        yield found


@pytest.mark.e2e
@pytest.mark.slow
async def test_a_second_opener_is_refused_and_told_who_has_it(url: str) -> None:
    first = await SqlStore.open(postgresql_database(url, "one"))
    with pytest.raises(Refused, match=f"paddock process {os.getpid()} has this store open"):
        await SqlStore.open(PostgreSQL(f"{url}&options=-csearch_path%3Done"))
    # Another schema is another store.
    second = await SqlStore.open(postgresql_database(url, "two"))
    await second.close()
    await first.close()
    again = await SqlStore.open(PostgreSQL(f"{url}&options=-csearch_path%3Done"))
    assert again.epoch == first.epoch + 1
    await again.close()


@pytest.mark.e2e
@pytest.mark.slow
async def test_a_lost_connection_makes_the_store_read_only(url: str) -> None:
    store = await SqlStore.open(postgresql_database(url, "cut"))
    await store.write(lambda tables: tables.hosts.add(host("a")))
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    for _ in range(2):
        with pytest.raises(Broken, match="nothing more is written"):
            await store.write(lambda tables: tables.hosts.add(host("b")))
    await store.close()


async def test_a_server_that_is_not_there_is_broken_and_its_password_is_not_told() -> None:
    database = database_at("postgresql://paddock:hunter2@127.0.0.1:1/paddock")
    with pytest.raises(Broken) as broken:
        await SqlStore.open(database)
    assert "127.0.0.1" in broken.value.message
    assert "hunter2" not in broken.value.message
