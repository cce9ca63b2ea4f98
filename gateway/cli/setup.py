"""`init`, `check` and `registration`: what comes before the first `serve`."""

import json
import secrets
import shlex
import time
from pathlib import Path

import rich_click as click
from pydantic import ValidationError

from gateway.cli.console import config_option, json_option, load_configuration, say
from gateway.cli.templates import example_configuration, registration_yaml
from gateway.config import load
from gateway.config.problems import explanation
from gateway.errors import ConfigurationError, Unusable
from gateway.upstream.homeserver import HomeserverSettings


@click.command()
@config_option
@json_option
def check(path: Path, *, as_json: bool) -> None:
    """Report every problem of the configuration at once, and what is unwise in it."""
    if not as_json:
        count = len(load_configuration(path).warnings_at(time.time()))
        warned = f", {count} warning{'s' * (count > 1)}" if count else ""
        say((f"{path}: OK{warned}", "green"))
        return
    try:
        warnings = load(path).warnings_at(time.time())
    except ConfigurationError as error:
        click.echo(json.dumps({"ok": False, "problems": error.problems, "warnings": []}, indent=2))
        raise SystemExit(2) from None
    click.echo(json.dumps({"ok": True, "problems": [], "warnings": warnings}, indent=2))


@click.command()
@config_option
def registration(path: Path) -> None:
    """Print the application service registration for the homeserver."""
    configuration = load(path)
    if not configuration.as_token:
        raise Unusable("There is no as_token in the configuration; `matrix-login-gateway init` makes one.")
    click.echo(registration_yaml(configuration.as_token, configuration.settings.homeserver.server_name), nl=False)


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--server-name", required=True, help="The name behind the colon in the homeserver's user ids.")
@click.option(
    "--homeserver-url",
    default="http://127.0.0.1:8008",
    show_default=True,
    help="Where the homeserver listens.",
)
def init(directory: Path, server_name: str, homeserver_url: str) -> None:
    """Write a commented configuration, random tokens and the registration; overwrites nothing."""
    try:
        HomeserverSettings(url=homeserver_url, server_name=server_name)
    except ValidationError as error:
        details = error.errors()[0]
        option = f"--{'server-name' if details['loc'] == ('server_name',) else 'homeserver-url'}"
        raise click.BadParameter(explanation(details, (), ()), param_hint=option) from None
    as_token = secrets.token_hex(32)
    files = {
        "gateway.toml": example_configuration(server_name, homeserver_url),
        "as_token": as_token + "\n",
        "jwt.secret": secrets.token_urlsafe(48) + "\n",
        "registration.yaml": registration_yaml(as_token, server_name),
    }
    there = [name for name in files if (directory / name).exists()]
    if there:
        raise Unusable(f"{directory} holds {', '.join(there)} already; nothing was written.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = directory / name
            path.touch(mode=0o640, exist_ok=False)
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise Unusable(f"{error.filename or directory} can't be written: {error.strerror}.") from error
    say(f"Wrote {', '.join(files)} to {directory}.")
    say("Next: give registration.yaml to the homeserver, put the issuer's key into jwt.secret, and run")
    say(f"  matrix-login-gateway check -c {shlex.quote(str(directory / 'gateway.toml'))}")
