"""`users`: the accounts that the database knows, and their sessions on the homeserver."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rich_click as click

from gateway.cli.accounts import opened_database, user_id_of
from gateway.cli.console import config_option, json_option, print_table, say
from gateway.cli.session_method import session_method
from gateway.config import Configuration, load
from gateway.core.accounts import Account, State
from gateway.core.identity import SENDER_LOCALPART
from gateway.errors import Refused, Unusable
from gateway.storage.accounts import Accounts
from gateway.upstream.answers import HomeserverAnswered

_user = click.argument("user")


@click.group()
def users() -> None:
    """Show and lock the accounts that log in through the gateway."""


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
@_user
@config_option
@json_option
def show(user: str, path: Path, *, as_json: bool) -> None:
    """Show one account; USER is a localpart or a whole user id."""
    configuration = load(path, with_secrets=False)
    found = asyncio.run(_accounts(configuration, _localpart(user, configuration)))
    if not found:
        raise Unusable(f"No account of {user} is in the database; `users list` shows those that are.")
    row = _described(found[0], configuration)
    if as_json:
        click.echo(json.dumps(row, indent=2))
        return
    print_table(("", ""), [(key, _cell(value)) for key, value in row.items()])


@users.command()
@_user
@config_option
def lock(user: str, path: Path) -> None:
    """Refuse logins of an account through the gateway, and end its sessions."""
    configuration = load(path)
    localpart = _localpart(user, configuration)
    if not asyncio.run(_change(configuration, localpart, Accounts.lock)):
        raise Unusable(
            f"No account of {user} is in the database. `users logout` ends the sessions of any user; to keep out one"
            " who never logged in through the gateway, use [identity] deny."
        )
    say(f"Locked {user_id_of(localpart, configuration)}: a token does not log it in any more.")
    _end_sessions(configuration, localpart, locked=True)


@users.command()
@_user
@config_option
def unlock(user: str, path: Path) -> None:
    """Let a locked account log in again."""
    configuration = load(path, with_secrets=False)
    localpart = _localpart(user, configuration)
    if not asyncio.run(_change(configuration, localpart, Accounts.unlock)):
        raise Unusable(f"No account of {user} is locked; `users list` shows the state of each.")
    say(f"Unlocked {user_id_of(localpart, configuration)}.")


@users.command()
@_user
@config_option
def logout(user: str, path: Path) -> None:
    """End every session of a user of the homeserver; the user may log in again."""
    configuration = load(path)
    _end_sessions(configuration, _localpart(user, configuration), locked=False)


def _end_sessions(configuration: Configuration, localpart: str, *, locked: bool) -> None:
    user_id = user_id_of(localpart, configuration)
    try:
        known = asyncio.run(_ended(configuration, localpart))
    except (Refused, HomeserverAnswered) as error:
        reason = error.reason if isinstance(error, Refused) else f"the homeserver answered {error}"
        raise Unusable(
            f"{'It is locked, but the' if locked else 'The'} sessions of {user_id} could not be ended: {reason}."
            f"\nThey may go on. Repeat: matrix-login-gateway users logout {user_id} -c {configuration.path}"
        ) from error
    if known:
        say(f"Ended all sessions of {user_id}.")
    elif locked:
        say(f"There is no session to end: the homeserver has no user {user_id}.")
    else:
        raise Unusable(f"The homeserver has no user {user_id}.")


async def _ended(configuration: Configuration, localpart: str) -> bool:
    async with session_method(configuration) as (method, _):
        return await method.end_all(localpart)


async def _change(
    configuration: Configuration, localpart: str, change: Callable[[Accounts, str], Awaitable[bool]]
) -> bool:
    async with opened_database(configuration) as database:
        return await change(Accounts(database), localpart)


def _localpart(user: str, configuration: Configuration) -> str:
    """Return the localpart of a name or a user id; raises `BadParameter` for a user of another server."""
    server_name = configuration.settings.homeserver.server_name
    localpart = user.removeprefix("@").removesuffix(f":{server_name}")
    if ":" in localpart:
        raise click.BadParameter(f"not a user of {server_name}")
    if localpart == SENDER_LOCALPART:  # Palpo would forget the as_token until its restart
        raise click.BadParameter("the gateway's own user, who has no sessions")
    return localpart


async def _accounts(configuration: Configuration, localpart: str | None) -> list[Account]:
    async with opened_database(configuration) as database:
        accounts = Accounts(database)
        if localpart is None:
            return await accounts.all()
        account = await accounts.get(localpart)
        return [] if account is None else [account]


def _described(account: Account, configuration: Configuration) -> dict[str, Any]:
    return {
        "user_id": user_id_of(account.localpart, configuration),
        **asdict(account),
        "state": State.LOCKED if account.state.is_locked else account.state,
        "created_at": _moment(account.created_at),
        "last_seen_at": _moment(account.last_seen_at),
    }


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _cell(value: str | None) -> str:
    return value or "-"
