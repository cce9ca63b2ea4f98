"""The only SQL: SQLAlchemy Core over an asynchronous driver. No transaction stays open while something else is awaited."""
