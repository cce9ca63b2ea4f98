"""`database upgrade`: brings the schema up to date; `serve` does it too."""

import asyncio
from pathlib import Path

import rich_click as click

from gateway.cli.console import config_option, say
from gateway.config import load
from gateway.storage.database import upgrade_database


@click.group()
def database() -> None:
    """Maintain the database of the accounts."""


@database.command()
@config_option
def upgrade(path: Path) -> None:
    """Bring the schema up to date."""
    done = asyncio.run(upgrade_database(load(path, with_secrets=False).settings.database))
    if done.before == done.after:
        say(f"The schema is up to date (revision {done.after}).")
    else:
        say(f"Upgraded the schema from {done.before or 'nothing'} to revision {done.after}.")
