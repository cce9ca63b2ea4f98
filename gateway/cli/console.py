"""How output looks: colour and tables on a terminal, plain lines elsewhere, and the `-c` option of all commands."""

from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.config import Configuration, load

stdout = Console(soft_wrap=True)
stderr = Console(stderr=True, soft_wrap=True)

config_option = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("gateway.toml"),
    show_default=True,
    envvar="MATRIX_LOGIN_GATEWAY_CONFIG",
    help="The configuration file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def load_configuration(path: Path) -> Configuration:
    """Read the configuration, its warnings on standard error; raises `ConfigurationError`."""
    configuration = load(path)
    print_warnings(configuration)
    return configuration


def print_warnings(configuration: Configuration) -> None:
    """Print what is unwise in a configuration that works."""
    for warning in configuration.warnings:
        stderr.print(f"[yellow]warning[/] {escape(warning)}", highlight=False)


def print_problems(problems: list[str]) -> None:
    """Print the report of a configuration that can't be used."""
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    stderr.print(f"[bold red]The configuration has {count}:[/]", highlight=False)
    for problem in problems:
        stderr.print(f"  {escape(problem)}", highlight=False)


def table(*columns: str) -> Table:
    """Return an empty table in the style of all commands."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
