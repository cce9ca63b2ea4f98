"""What every section of the relay benchmark is given, and what it hands back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks.processes import Cores


@dataclass(frozen=True)
class Plan:
    """How much to measure, where, and whom to tell of the progress.

    `seconds` is the length of a wrk run, where a section has none of its own. `before` is the command of another
    version of the gateway, to compare with.
    """

    directory: Path
    cores: Cores
    quick: bool
    rounds: int
    seconds: int
    say: Callable[[str], None]
    before: Path | None = None


@dataclass
class Report:
    """Figures (dataclasses, for the JSON file), the tables that show them, and what a reader must know."""

    figures: list[Any] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose first column is text and whose others are figures."""
    made = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        made.add_row(*row)
    return made
