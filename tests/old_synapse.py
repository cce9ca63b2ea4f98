"""The environment of the oldest Synapse that is tested: made once, in a directory that outlives the run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# With what it was released with: it does not run with the newest of these.
REQUIREMENTS = (
    "matrix-synapse==1.98.0",
    "prometheus-client<0.20",
    "setuptools<81",
    "treq==23.11.0",
    "Twisted==23.10.0",
)
_PATIENCE = 240  # seconds; 20 are usual


def old_python(cache: Path) -> Path:
    """Return its interpreter; skips the test with the reason where it can't be installed, but never under `CI`."""
    environment = cache / "synapse-1.98"
    if not environment.exists():
        made = cache / f"synapse-1.98.{os.getpid()}"
        try:
            _install(made)
            made.rename(environment)
        except (OSError, subprocess.SubprocessError) as error:
            if not environment.exists():  # another run was not faster either
                if os.environ.get("CI") == "true":
                    raise
                said = getattr(error, "stderr", None) or str(error)
                pytest.skip(f"Synapse 1.98 can't be installed: {said.strip().splitlines()[-1]}")
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return environment / "bin" / "python"


def _install(directory: Path) -> None:
    # pip comes from the environment of the tests: to put it into this one too takes 5 s.
    pip = [sys.executable, "-m", "pip", "--python", str(directory / "bin" / "python")]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(directory)],
        [*pip, "install", "-q", "--only-binary", ":all:", *REQUIREMENTS],
    ):
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)
