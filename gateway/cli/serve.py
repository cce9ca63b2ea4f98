"""`serve`: runs the gateway in the foreground, as systemd wants it."""

import signal
from pathlib import Path

import rich_click as click
import uvloop

from gateway import app
from gateway.cli.console import config_option
from gateway.config import load


@click.command()
@config_option
def serve(path: Path) -> None:
    """Run the gateway until it gets SIGTERM or Ctrl-C; SIGHUP reads its configuration again."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it runs: it would end what reads its configuration anyway
    uvloop.run(app.serve(load(path)))
