"""Runs the migrations on the connection that the gateway gives; the whole upgrade is one transaction of its own."""

from alembic import context

from gateway.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
