"""The figures of a command of the tests' own, run as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def figures(directory: Path, name: str, *options: str) -> dict[str, Any]:
    """Run a command, in which everything has to hold, and return what it found."""
    file = directory / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", f"tests.{name}", *options, "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(file.read_text())["figures"]
    return found
