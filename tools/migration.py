"""Write the next migration of the store: what the tables in the code have beyond the newest one there is.

`./dev run python tools/migration.py 0002 "why"`; with `0001` the first one is written anew, which is right only until
the first release. The file is a draft: read it, and mind the rows that are there.
"""

import sys
from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext

from paddock.adapters.stores.sql.migrating import known, upgrade, versions
from paddock.adapters.stores.sql.schema import METADATA

FRAME = '''"""{why}"""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {before!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
{body}
'''


def write(revision: str, why: str) -> Path:
    older = [version for version in known() if version < revision]
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        if older:
            upgrade(connection, older[-1])
        wanted = produce_migrations(MigrationContext.configure(connection), METADATA)
    assert wanted.upgrade_ops is not None
    lines = render_python_code(wanted.upgrade_ops).splitlines()
    body = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    path = versions() / f"{revision}_{why.rstrip('.').lower().replace(' ', '_')}.py"
    path.write_text(FRAME.format(why=why, revision=revision, before=older[-1] if older else None, body=body))
    return path


if __name__ == "__main__":
    print(write(sys.argv[1], sys.argv[2]))
