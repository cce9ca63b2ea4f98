"""`--version`: the gateway and the parts whose versions matter in a report of a fault."""

import platform
import sqlite3
import ssl
from importlib.metadata import version

import rich_click as click
from cryptography.hazmat.backends.openssl import backend

from gateway import __version__


def versions() -> str:
    """Return the versions in two lines: ours, and those of the parts."""
    parts = {
        "Python": platform.python_version(),
        **{name: version(name) for name in ("aiohttp", "uvloop", "joserfc", "cryptography")},
        "OpenSSL": f"{_number(backend.openssl_version_text())} for keys and {_number(ssl.OPENSSL_VERSION)} for TLS",
        "SQLite": sqlite3.sqlite_version,
    }
    return f"matrix-login-gateway {__version__}\n{', '.join(f'{name} {value}' for name, value in parts.items())}"


def _number(text: str) -> str:
    return text.removeprefix("OpenSSL ").partition(" ")[0]


def _print(context: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's own form
    if value and not context.resilient_parsing:
        click.echo(versions())
        context.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print,
    help="Show the versions of the gateway and its parts.",
)
