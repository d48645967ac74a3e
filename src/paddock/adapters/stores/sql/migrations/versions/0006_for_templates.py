"""What environments have booked for templates that may have to be made for them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("environments", sa.Column("for_templates", sa.BigInteger(), nullable=False, server_default="0"))
