"""Bring the tables of a database to the version that this Paddock speaks.

Effects: idempotent; every migration runs in a transaction of its own.
"""

from importlib.resources import files
from pathlib import Path

import sqlalchemy as sa

from paddock.adapters.stores.sql.database import Database
from paddock.core.errors import Refused

HEAD = "0006"
"""The newest migration. A database that is there already costs no import of Alembic."""


def migrate(database: Database) -> None:
    """Run the migrations that are missing. `Refused` for a database that a later Paddock has migrated."""
    engine = sa.create_engine(database.migration_url(), creator=database.connect, poolclass=sa.NullPool)
    with engine.connect() as connection:
        revision = _revision(connection)
        if revision == HEAD:
            return
        if revision is not None and revision not in known():
            raise Refused(
                f"{database.name}: its tables are of version {revision}, this Paddock knows up to {HEAD}",
                hint="run the Paddock that made it, or a later one",
            )
        upgrade(connection)


def known() -> list[str]:
    """All versions, oldest first: the names of the files of `migrations/versions` begin with them."""
    return sorted(path.name.split("_")[0] for path in versions().iterdir() if path.name[:4].isdigit())


def versions() -> Path:
    return scripts() / "versions"


def scripts() -> Path:
    return Path(str(files("paddock.adapters.stores.sql") / "migrations"))


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    connection.rollback()
    return None if revision is None else str(revision)


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Run the migrations up to `revision`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    # Alembic reads %: as in its files, where it begins an interpolation.
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
