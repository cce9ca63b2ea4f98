"""`import`: another server's JWT login as a `gateway.toml` on standard output."""

import os
import stat
from pathlib import Path

import rich_click as click

from gateway.cli.console import say, stderr, warn
from gateway.cli.import_palpo import read_palpo, read_tuwunel
from gateway.cli.imported import Imported, toml_text

_file = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))


@click.group(name="import")
def import_() -> None:
    """Print a gateway.toml that accepts the tokens which a homeserver accepts itself.

    It holds the secret of that file. Nothing is written, and no file is changed.
    """


@import_.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
def synapse(paths: tuple[Path, ...]) -> None:
    """Read jwt_config of homeserver.yaml; of several files, later ones win as in Synapse."""
    from gateway.cli.import_synapse import read_synapse  # noqa: PLC0415 - no other command needs PyYAML

    _print(read_synapse(paths))


@import_.command()
@_file
def palpo(path: Path) -> None:
    """Read the table [jwt] of palpo.toml, or of its .yaml or .json."""
    _print(read_palpo(path))


@import_.command()
@_file
def tuwunel(path: Path) -> None:
    """Read the table [global.jwt] of tuwunel.toml."""
    _print(read_tuwunel(path))


def _print(imported: Imported) -> None:
    click.echo(toml_text(imported), nl=False)
    for problem in imported.problems:
        warn(f"`serve` will refuse this: {problem}")
    if _everybody_reads_output():
        warn(
            "the file that the output goes to holds a key, and everybody on this machine can read it: `chmod 600` it"
        )
    else:
        say("The output holds a key: `umask 077` before it goes to a file.", to=stderr)


def _everybody_reads_output() -> bool:
    try:
        mode = os.fstat(1).st_mode
    except OSError:  # it is closed
        return False
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)
