"""Run by Alembic: `komad.store.schema` hands over an open transaction; there is no alembic.ini."""

from alembic import context

from komad.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters most things by copying the table
    transactional_ddl=False,  # the transaction is the caller's
)
context.run_migrations()
