"""The database, read and written without a change."""

from gateway.doctor import Finding
from gateway.errors import Refused, Unusable
from gateway.storage.database import DatabaseSettings, open_database
from gateway.storage.migrate import NeedsUpgrade


async def examine_database(settings: DatabaseSettings) -> Finding:
    """Return whether the database can be read and written, and is up to date; nothing in it is changed."""
    name = "database"
    try:
        async with open_database(settings, upgrade=False) as database:
            await database.check_writable()
            return Finding(name, "pass", "it can be written, and its schema is up to date")
    except NeedsUpgrade as needs:
        return Finding(name, "warn", str(needs), "nothing to do: `serve` does it at its start")
    except Unusable as unusable:
        return Finding(name, "fail", str(unusable), "see [database] url, and who may read and write it")
    except Refused as refused:
        mend = (
            "let the gateway's user write the file and its directory, and look for free space"
            if settings.is_file
            else "let [database] url lead to the primary server, and grant its user all rights on every table"
        )
        return Finding(name, "fail", f"the database can't be written: {refused.reason}", mend)
