"""`init`, `check` and `registration` as an operator sees them: the installed command in a process of its own."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.commands import run

FILES = {"gateway.toml", "as_token", "jwt.secret", "registration.yaml"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "gateway"
    assert run("init", str(made), "--server-name", "example.com").returncode == 0
    return made


def test_init_writes_four_files_that_only_owner_and_group_read(directory: Path) -> None:
    assert {path.name for path in directory.iterdir()} == FILES
    assert all(not path.stat().st_mode & stat.S_IRWXO for path in directory.iterdir())


def test_what_init_wrote_is_a_good_configuration(directory: Path) -> None:
    result = run("check", "-c", str(directory / "gateway.toml"))

    assert result.returncode == 0
    assert result.stdout == f"{directory / 'gateway.toml'}: OK, 1 warning\n"
    assert re.fullmatch(r"warning \S+/gateway\.toml:\d+: \[jwt\] issuer: is empty; any token .*\n", result.stderr)


def test_a_directory_whose_name_looks_like_markup_is_named_as_it_is(tmp_path: Path) -> None:
    made = tmp_path / "[" / "y]"
    init = run("init", str(made), "--server-name", "example.com")
    check = run("check", "-c", str(made / "gateway.toml"))

    assert init.returncode == check.returncode == 0
    assert f"to {made}." in init.stdout
    assert str(made) in check.stdout


def test_init_makes_another_secret_each_time(directory: Path, tmp_path: Path) -> None:
    run("init", str(tmp_path / "other"), "--server-name", "example.com")

    assert (directory / "as_token").read_text() != (tmp_path / "other" / "as_token").read_text()
    assert (directory / "jwt.secret").read_text() != (tmp_path / "other" / "jwt.secret").read_text()


def test_init_overwrites_nothing(directory: Path) -> None:
    before = {path: path.read_bytes() for path in directory.iterdir()}

    result = run("init", str(directory), "--server-name", "example.com")

    assert result.returncode == 1
    assert result.stderr.endswith("already; nothing was written.\n")
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "Missing option '--server-name'"),
        (["--server-name", "https://example.com/"], "Invalid value for --server-name: not a server name"),
        (["--server-name", "example.com", "--homeserver-url", "x"], "Invalid value for --homeserver-url: write http"),
    ],
)
def test_init_writes_nothing_for_a_name_or_address_that_can_not_be(
    tmp_path: Path, options: list[str], complaint: str
) -> None:
    result = run("init", str(tmp_path / "made"), *options)

    assert result.returncode == 2
    assert complaint in result.stderr
    assert not (tmp_path / "made").exists()


def test_init_says_which_directory_cannot_be_written() -> None:
    result = run("init", "/proc/gateway", "--server-name", "example.com")

    assert result.returncode == 1
    assert "/proc/gateway can't be written" in result.stderr
    assert "Traceback" not in result.stderr


def test_registration_prints_what_init_wrote(directory: Path) -> None:
    result = run("registration", "-c", str(directory / "gateway.toml"))

    assert result.returncode == 0
    assert result.stdout == (directory / "registration.yaml").read_text()


def test_the_registration_is_what_every_homeserver_takes(directory: Path) -> None:
    registration: dict[str, Any] = yaml.safe_load((directory / "registration.yaml").read_text())

    assert registration["url"] is None
    assert registration["as_token"] == (directory / "as_token").read_text().strip()
    assert registration["hs_token"] not in {"", registration["as_token"]}
    assert registration["rate_limited"] is False
    assert registration["sender_localpart"] == "_login_gateway"
    assert registration["namespaces"] == {
        "users": [{"exclusive": False, "regex": r"^@.*:example\.com$"}],
        "aliases": [],
        "rooms": [],
    }


def test_check_prints_every_problem_with_its_place_and_ends_with_2(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[homeserver]\nurl = "http://127.0.0.1:8008"\n[jwt]\nleway = 3\nsecret = "short"\n')

    result = run("check", "-c", str(path))

    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "The configuration has 4 problems:",
        f"  {path}:1: [homeserver] server_name: is missing; it has no default",
        f"  {path}:4: [jwt] leway: unknown key; the nearest known one is 'leeway'",
        (
            f"  {path}:5: [jwt] secret: 5 bytes are too short for HS256, which needs 32; make a longer one with"
            " `openssl rand -hex 32`, or set allow_weak_secret = true if you can't"
        ),
        f"  {path}: [session]: there is no as_token; `matrix-login-gateway init` makes one, with its registration",
    ]


@pytest.mark.parametrize(
    "command", [["check"], ["serve"], ["registration"], ["users", "list"], ["database", "upgrade"]]
)
def test_every_command_ends_with_2_and_no_traceback_without_its_configuration(
    command: list[str], tmp_path: Path
) -> None:
    result = run(*command, "-c", str(tmp_path / "none.toml"))

    assert result.returncode == 2
    assert "can't be read: No such file or directory" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_prints_json_for_scripts(directory: Path, tmp_path: Path) -> None:
    good = run("check", "--json", "-c", str(directory / "gateway.toml"))
    bad = run("check", "--json", "-c", str(tmp_path / "none.toml"))

    assert json.loads(good.stdout)["ok"] is True
    assert bad.returncode == 2
    assert len(json.loads(bad.stdout)["problems"]) == 1


def test_an_unknown_command_is_a_usage_error() -> None:
    assert run("nonsense").returncode == 2


def test_output_that_is_no_terminal_has_no_colour(directory: Path) -> None:
    result = run("check", "-c", str(directory / "gateway.toml"))

    assert "\x1b" not in result.stdout + result.stderr
