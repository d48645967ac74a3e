"""In which store an environment was made; those that are there keep their MACs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("environments", sa.Column("maker", sa.Text(), nullable=False, server_default=""))
