"""All benchmarks start, and say what they can be asked for; the one of whole gateways also measures for a moment."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.figures import figures

ROOT = Path(__file__).parents[2]
# Runs a module as -m does, where matplotlib can't be imported.
WITHOUT_PLOT = """
import runpy, sys
sys.modules["matplotlib"] = None
name = sys.argv.pop(1)
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", ["capacity", "database", "login", "login_bodies", "relay", "tokens"])
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


@pytest.mark.usefixtures("postgres")  # which says why, where there is none
def test_the_capacity_is_measured_with_one_gateway_and_with_two(tmp_path: Path) -> None:
    found = figures(tmp_path, "benchmarks.capacity", "--seconds", "0.5", "--users", "20")

    for count in ("1 gateway", "2 gateways"):
        assert set(found[f"{count}: answers"]) == {"200"}
