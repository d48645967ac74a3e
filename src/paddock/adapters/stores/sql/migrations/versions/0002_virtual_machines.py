"""Virtual machines: images on hosts, what is booked, saved disks."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "images",
        sa.Column(
            "place", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("chain", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("serving", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("apparent", sa.BigInteger(), nullable=False),
        sa.Column("layers", sa.Text(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("built", sa.BigInteger(), nullable=True),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("place"),
        sa.UniqueConstraint("id", name="images_id"),
    )
    op.create_index("images_by_host", "images", ["host"], unique=False)
    op.create_index("images_by_image", "images", ["image"], unique=False)
    op.add_column("environments", sa.Column("size", sa.Text(), nullable=True))
    op.add_column("environments", sa.Column("full_disk", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("environments", sa.Column("spec", sa.Text(), nullable=True))
    op.add_column("environments", sa.Column("fork_of", sa.Text(), nullable=False, server_default=""))
    op.add_column("environments", sa.Column("wants_saving", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("environments", sa.Column("has_saved", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("hosts", sa.Column("capacity", sa.Text(), nullable=True))
    op.add_column("hosts", sa.Column("listing", sa.Text(), nullable=False, server_default=""))
    op.add_column("leases", sa.Column("fork_of", sa.Text(), nullable=False, server_default=""))
