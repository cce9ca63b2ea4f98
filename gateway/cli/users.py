"""`users`: the accounts that the database knows."""

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rich_click as click

from gateway.cli.console import config_option, json_option, print_table, say
from gateway.config import Configuration, load
from gateway.core.accounts import Account
from gateway.errors import Refused, Unusable
from gateway.storage.accounts import Accounts
from gateway.storage.database import open_database


@click.group()
def users() -> None:
    """Show the accounts that log in through the gateway."""


@users.command(name="list")
@config_option
@json_option
def list_users(path: Path, *, as_json: bool) -> None:
    """List every account."""
    configuration = load(path, with_secrets=False)
    rows = [_described(account, configuration) for account in asyncio.run(_accounts(configuration, None))]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        say("No one has logged in yet.")
        return
    keys = ("user_id", "state", "subject", "issuer", "created_at", "last_seen_at")
    print_table(
        ("user", "state", "subject", "issuer", "made", "last seen"),
        [[_cell(row[key]) for key in keys] for row in rows],
    )


@users.command()
@click.argument("user")
@config_option
@json_option
def show(user: str, path: Path, *, as_json: bool) -> None:
    """Show one account; USER is a localpart or a whole user id."""
    configuration = load(path, with_secrets=False)
    localpart = user.removeprefix("@").removesuffix(f":{configuration.settings.homeserver.server_name}")
    found = asyncio.run(_accounts(configuration, localpart))
    if not found:
        raise Unusable(f"No account of {user} is in the database; `users list` shows those that are.")
    row = _described(found[0], configuration)
    if as_json:
        click.echo(json.dumps(row, indent=2))
        return
    print_table(("", ""), [(key, _cell(value)) for key, value in row.items()])


async def _accounts(configuration: Configuration, localpart: str | None) -> list[Account]:
    try:
        async with open_database(configuration.settings.database, upgrade=False) as database:
            accounts = Accounts(database)
            if localpart is None:
                return await accounts.all()
            account = await accounts.get(localpart)
            return [] if account is None else [account]
    except Refused as refused:
        raise Unusable(f"The database can't be read: {refused.reason}.") from refused


def _described(account: Account, configuration: Configuration) -> dict[str, Any]:
    server_name = configuration.settings.homeserver.server_name
    return {
        "user_id": f"@{account.localpart}:{server_name}",
        **asdict(account),
        "created_at": _moment(account.created_at),
        "last_seen_at": _moment(account.last_seen_at),
    }


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _cell(value: str | None) -> str:
    return value or "-"
