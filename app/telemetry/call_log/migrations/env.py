"""Runs the migrations on the connection that `Transactions.migrate` has opened."""

from alembic import context
from sqlalchemy import Connection, text

from app.telemetry.call_log.schema import metadata

ONE_AT_A_TIME = 0x6D6F736869
"""The key of the lock that services of several machines acquire in turn."""

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ONE_AT_A_TIME})
    context.run_migrations()
