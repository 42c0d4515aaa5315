"""Where alembic meets the connection that `Database.migrate` opened; it is never started from alembic's own command line."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
