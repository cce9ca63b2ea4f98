"""`database`: `upgrade` brings the schema up to date, as `serve` does; `copy` moves all to another database."""

import asyncio
from pathlib import Path

import rich_click as click
from pydantic import ValidationError
from rich.progress import Progress

from gateway.cli.console import config_option, print_table, say, stderr
from gateway.config import load
from gateway.errors import Refused, Unusable
from gateway.storage.copy import Compared, compare, copy_rows, count_rows
from gateway.storage.database import DatabaseSettings, open_database, upgrade_database


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


def _settings(_context: click.Context, _parameter: click.Parameter, value: str) -> DatabaseSettings:
    try:
        return DatabaseSettings(url=value)
    except ValidationError as error:
        raise click.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


@database.command()
@click.option(
    "--to",
    "target",
    metavar="URL",
    required=True,
    callback=_settings,
    help="Where to, as in [database] url. A password is best in the file that PGPASSFILE names.",
)
@config_option
def copy(path: Path, target: DatabaseSettings) -> None:
    """Copy everything to another database, as from SQLite to PostgreSQL, and compare the two.

    Stop every gateway first. A copy that broke off goes on when it is started again.
    """
    source = load(path, with_secrets=False).settings.database
    if source.url == target.url:
        raise Unusable("The target is the database itself; name another one.")
    compared = asyncio.run(_copy(source, target))
    print_table(
        ("table", "rows", "checksum", "rows there", "checksum there"),
        [
            (one.table, str(one.source.rows), one.source.checksum, str(one.target.rows), one.target.checksum)
            for one in compared
        ],
    )
    if any(one.source != one.target for one in compared):
        raise Unusable("The two differ. Stop every gateway that uses one of them, and copy again.")
    say(("Both hold the same.", "green"), " Set [database] url to the new one, and start the gateways.")


async def _copy(source: DatabaseSettings, target: DatabaseSettings) -> list[Compared]:
    try:
        async with open_database(source, upgrade=False) as here, open_database(target) as there:
            with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
                task = progress.add_task("Copying", total=3 * await count_rows(here))
                await copy_rows(here, there, lambda count: progress.advance(task, count))
                progress.update(task, description="Comparing")
                return await compare(here, there, lambda count: progress.advance(task, count))
    except Refused as refused:
        raise Unusable(f"The copy broke off: {refused.reason}. Start it again to go on.") from refused
