"""The commands of the faults in short: what they claim holds for a few users and a few kills too."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def figures(directory: Path, name: str, *options: str) -> dict[str, Any]:
    """Run a command, in which everything has to hold, and return what it found."""
    file = directory / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", f"tests.faults.{name}", *options, "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(file.read_text())["figures"]
    return found


@pytest.mark.usefixtures("postgres")  # which says why, where there is none
def test_first_logins_at_two_gateways_of_which_one_is_killed_make_each_account_once(tmp_path: Path) -> None:
    found = figures(tmp_path, "first_logins", "--count", "1000", "--every", "0.4")

    assert found["kills"] >= 1
    assert found["accounts at the homeserver"] == 1000


def test_no_kill_breaks_the_database_or_loses_a_user_who_was_answered(tmp_path: Path) -> None:
    found = figures(tmp_path, "kills", "--count", "3")

    assert found["of them, answered before a kill"] > 0


@pytest.mark.usefixtures("postgres")
@pytest.mark.parametrize(
    ("database", "method", "every", "kills"),
    [
        ("sqlite", "appservice", 3, 2),
        ("sqlite", "mas", 4, 2),
        ("postgresql", "appservice", 9, 2),
    ],
)
def test_a_first_login_that_is_killed_at_any_step_is_finished_by_the_next(
    database: str, method: str, every: int, kills: int, tmp_path: Path
) -> None:
    found = figures(tmp_path, "steps", "--database", database, "--method", method, "--every", str(every))

    assert sum(found["kills, by what was about to go on"].values()) >= kills


def test_a_homeserver_that_fails_makes_no_wrong_session(tmp_path: Path) -> None:
    found = figures(tmp_path, "failing", "--count", "25", "--seed", "2")

    assert found["what went wrong at the homeserver"]


@pytest.mark.usefixtures("postgres")
def test_nothing_is_left_of_mixed_load_with_every_fault(tmp_path: Path) -> None:
    found = figures(tmp_path, "hour", "--rounds", "2", "--seconds", "3")

    assert {"200", "503"} <= set(found["answers to good logins"])
