"""What Alembic runs for every command; `gateway.database.upgrading` gives it the connection."""

from __future__ import annotations

from alembic import context

from gateway.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # Of our own: Prefect may keep its tables, and Alembic's, in the same database.
    version_table="gateway_version",
    transactional_ddl=True,  # SQLite can, since we begin its transactions ourselves
    render_as_batch=True,  # SQLite cannot change a column in place
)
with context.begin_transaction():
    context.run_migrations()
