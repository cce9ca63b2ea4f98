"""The only SQL: SQLAlchemy Core over an asynchronous driver."""
