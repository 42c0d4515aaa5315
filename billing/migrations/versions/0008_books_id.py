"""The books' own name: random, written once, so that a journal folder is known to be theirs."""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Give the books an id. A copy of the database has the same: it is the same books."""
    books = op.create_table("books", sa.Column("id", sa.String(), nullable=False), sa.PrimaryKeyConstraint("id"))
    op.bulk_insert(books, [{"id": uuid4().hex}])


def downgrade() -> None:
    """Take it away: going up again makes another, so what a journal folder still holds must be booked before."""
    op.drop_table("books")
