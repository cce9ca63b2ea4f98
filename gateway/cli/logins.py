"""`logins`: the audit trail of the database, the newest attempt first."""

import asyncio
import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import rich_click as click

from gateway.cli.accounts import opened_database, user_id_of
from gateway.cli.console import config_option, json_option, print_table, say
from gateway.config import Configuration, load
from gateway.errors import Refusal
from gateway.storage.audit import BY_HOMESERVER, NOT_RECORDED, OPENED, REFUSED, AttemptFilter, Entry, find_attempts

_OUTCOMES: Final = (OPENED, REFUSED, BY_HOMESERVER, NOT_RECORDED, *(refusal.name.lower() for refusal in Refusal))
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_COLUMNS: Final = {
    "at": "when",
    "outcome": "outcome",
    "user_id": "user",
    "subject": "subject",
    "issuer": "issuer",
    "device_id": "device",
    "address": "address",
    "user_agent": "user agent",
    "reason": "reason",
}


def _seconds(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """Return the moment that `--since` names, in seconds since the epoch."""
    if text is None:
        return None
    try:
        if ago := re.fullmatch(r"(\d{1,9})([smhdw])", text, re.ASCII):
            return time.time() - int(ago[1]) * _UNITS[ago[2]]
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        hint = "write 30m, 2h, 7d, or a moment such as 2026-11-01 or 2026-11-01T08:00 (UTC)"
        raise click.BadParameter(hint) from None


@click.command()
@config_option
@click.option("--user", metavar="NAME", help="Of this account: a localpart or a whole user id.")
@click.option("--subject", metavar="TEXT", help="Of this subject, as tokens name it.")
@click.option("--issuer", metavar="TEXT", help="Of this issuer.")
@click.option(
    "--outcome", metavar="NAME", type=click.Choice(_OUTCOMES), help="That ended so: ok, refused, expired, ..."
)
@click.option("--address", metavar="TEXT", help="From this address.")
@click.option("--since", metavar="TIME", callback=_seconds, help="Not older than this: 30m, 2h, 7d, or 2026-11-01.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, 10**9), default=50, show_default=True, help="At most so many."
)
@json_option
def logins(path: Path, *, user: str | None, limit: int, as_json: bool, **wanted: Any) -> None:
    """Show who tried to log in, the newest attempt first."""
    configuration = load(path, with_secrets=False)
    user_id = None if user is None else user_id_of(user, configuration)
    found = asyncio.run(_find(configuration, AttemptFilter(limit, user_id=user_id, **wanted)))
    rows = [_described(entry) for entry in found]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        print_table(tuple(_COLUMNS.values()), [[row[key] or "-" for key in _COLUMNS] for row in rows])
    else:
        kept = configuration.settings.database.audit_retention
        say("No such attempt is in the database." if kept else "No attempt is kept: [database] audit_retention is 0.")


async def _find(configuration: Configuration, wanted: AttemptFilter) -> list[Entry]:
    async with opened_database(configuration) as database:
        return await find_attempts(database, wanted)


def _described(entry: Entry) -> dict[str, str]:
    at = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds")
    return {**asdict(entry), "at": at}
