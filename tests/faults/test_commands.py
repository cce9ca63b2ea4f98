"""The commands of the faults in short: what they claim holds for a few users and a few kills too."""

from pathlib import Path

import pytest

from tests.figures import figures


@pytest.mark.usefixtures("postgres")  # which says why, where there is none
def test_first_logins_at_two_gateways_of_which_one_is_killed_make_each_account_once(tmp_path: Path) -> None:
    found = figures(tmp_path, "faults.first_logins", "--count", "1000", "--every", "0.4")

    assert found["kills"] >= 1
    assert found["accounts at the homeserver"] == 1000


def test_no_kill_breaks_the_database_or_loses_a_user_who_was_answered(tmp_path: Path) -> None:
    found = figures(tmp_path, "faults.kills", "--count", "3")

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
    found = figures(tmp_path, "faults.steps", "--database", database, "--method", method, "--every", str(every))

    assert sum(found["kills, by what was about to go on"].values()) >= kills


def test_a_homeserver_that_fails_makes_no_wrong_session(tmp_path: Path) -> None:
    found = figures(tmp_path, "faults.failing", "--count", "25", "--seed", "2")

    assert found["what went wrong at the homeserver"]


@pytest.mark.usefixtures("postgres")
def test_nothing_is_left_of_mixed_load_with_every_fault(tmp_path: Path) -> None:
    found = figures(tmp_path, "faults.hour", "--rounds", "2", "--seconds", "3")

    assert {"200", "503"} <= set(found["answers to good logins"])


def test_no_octet_of_mixed_requests_is_wrong_and_none_hangs(tmp_path: Path) -> None:
    found = figures(tmp_path, "faults.soak", "--count", "300", "--seed", "7")

    assert found["sound"] > 200
    assert found["sent in vain, or not at all"] == 0
