"""For which run an environment is held, which stood in the words of who holds it."""

import json
import re

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_WORDS = re.compile(r"run (?P<run>\S+) of (?P<job>\S+)")


def upgrade() -> None:
    op.add_column("environments", sa.Column("held_for", sa.Text(), nullable=True))
    rows = sa.table("environments", sa.column("id"), sa.column("held_by"), sa.column("held_for"))
    connection = op.get_bind()
    for id, held_by in connection.execute(sa.select(rows.c.id, rows.c.held_by).where(rows.c.held_by != "")).all():
        if found := _WORDS.fullmatch(held_by):
            told = json.dumps(found.groupdict())
            connection.execute(sa.update(rows).where(rows.c.id == id).values(held_for=told))
