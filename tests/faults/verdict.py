"""What a fault test claims, how it came out, and how that is shown: a table, a JSON file, an exit status."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks.plan import table


@dataclass
class Verdict:
    """Figures, with what they must be where something is claimed of them."""

    title: str
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    _rows: list[list[str]] = field(default_factory=list)

    def tell(self, name: str, value: Any) -> None:
        """Add a figure of which nothing is claimed."""
        self.figures[name] = value
        self._rows.append([name, _text(value), ""])

    def claim(self, name: str, value: Any, wanted: Any) -> None:
        """Add a figure that must be `wanted`."""
        self._judge(name, value, f"= {_text(wanted)}", holds=value == wanted)

    def at_most(self, name: str, value: float, most: float) -> None:
        """Add a figure that must not be larger."""
        self._judge(name, value, f"<= {_text(most)}", holds=value <= most)

    def end(self, file: Path | None) -> None:
        """Print everything, write the JSON file, and end with status 1 when a claim does not hold."""
        console = Console()
        console.print(table(self.title, ["", "found", "claimed"], self._rows))
        if file:
            file.write_text(json.dumps({"figures": self.figures, "broken": self.broken}, indent=2))
        for name in self.broken:
            console.print(f"[red]does not hold: {name}")
        sys.exit(1 if self.broken else 0)

    def _judge(self, name: str, value: Any, claimed: str, *, holds: bool) -> None:
        self.figures[name] = value
        if not holds:
            self.broken.append(name)
        self._rows.append([name, _text(value), claimed if holds else f"{claimed}  NOT SO"])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(number)}" for name, number in sorted(value.items())) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value[:3])) or "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if isinstance(value, float) else str(value)
