"""What the commands about accounts and their logins share: the database, and how a user is named."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.config import Configuration
from gateway.errors import Refused, Unusable
from gateway.storage.database import Database, open_database


@asynccontextmanager
async def opened_database(configuration: Configuration) -> AsyncIterator[Database]:
    """Open the database, which must be there and up to date; also what fails within is told as `Unusable`."""
    try:
        async with open_database(configuration.settings.database, upgrade=False) as database:
            yield database
    except Refused as refused:
        raise Unusable(f"The database can't be used: {refused.reason}.") from refused


def user_id_of(user: str, configuration: Configuration) -> str:
    """Return the whole user id of a localpart; what is one already stays."""
    return user if user.startswith("@") else f"@{user}:{configuration.settings.homeserver.server_name}"
