"""All benchmarks start, and say what they can be asked for; nothing is measured here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Runs a module as -m does, where matplotlib can't be imported.
WITHOUT_PLOT = """
import runpy, sys
sys.modules["matplotlib"] = None
name = sys.argv.pop(1)
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", ["database", "login", "relay", "tokens"])
def test_a_benchmark_starts_without_matplotlib_and_names_its_options(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_PLOT, f"tests.benchmarks.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    described, _, options = done.stdout.partition("\noptions:\n")
    usage = re.search(rf"python -m tests\.benchmarks\.{name} (.*)", described)
    assert usage is not None
    assert set(re.findall(r"--\w+", usage[1])) == set(re.findall(r"--\w+", options)) - {"--help"}
