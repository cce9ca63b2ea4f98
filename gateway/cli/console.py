"""How output looks: colour and tables on a terminal, plain lines elsewhere, and the `-c` option of all commands.

Rule: values come from strangers, so nothing in a text is markup, and control characters are written out.
"""

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.config import Configuration, load
from gateway.logs import printable

# Text, or text in a style.
Part = str | tuple[str, str]

# No table is as wide; a file or a pipe has no width at which to fold one.
_NO_WIDTH = 100_000


def _console(*, error: bool) -> Console:
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else _NO_WIDTH
    return Console(stderr=error, soft_wrap=True, markup=False, emoji=False, highlight=False, width=width)


stdout = _console(error=False)
stderr = _console(error=True)

config_option = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path, readable=False),  # who can't read it is told so by the report
    default=Path("gateway.toml"),
    show_default=True,
    envvar="MATRIX_LOGIN_GATEWAY_CONFIG",
    help="The configuration file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def say(*parts: Part, to: Console = stdout) -> None:
    """Print one line."""
    to.print(Text.assemble(*map(_text, parts)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Part]]) -> None:
    """Print a table; without a head where the columns have no names."""
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    stdout.print(table)


def _text(part: Part) -> Text:
    text, style = (part, "") if isinstance(part, str) else part
    return Text(printable(text), style)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    say(("warning", "yellow"), f" {text}", to=stderr)


def load_configuration(path: Path) -> Configuration:
    """Read the configuration, its warnings on standard error; raises `ConfigurationError`."""
    configuration = load(path)
    for warning in configuration.warnings_at(time.time()):
        warn(warning)
    return configuration


def print_problems(problems: list[str]) -> None:
    """Print the report of a configuration that can't be used."""
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    say((f"The configuration has {count}:", "bold red"), to=stderr)
    for problem in problems:
        say(f"  {problem}", to=stderr)


def print_failure(text: str) -> None:
    """Print why a command failed; the text may have several lines."""
    for line in text.splitlines():
        say((line, "bold red"), to=stderr)
