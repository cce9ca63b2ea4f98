"""The files that commands write are read as they were meant, whatever their values hold."""

import tomllib

import pytest
import yaml

from gateway.cli.templates import example_configuration, registration_yaml


@pytest.mark.parametrize("url", ["http://127.0.0.1:8008", 'unix:/a "quoted"\\1\\n path'])
def test_the_example_gets_server_name_and_address_and_nothing_else_changes(url: str) -> None:
    before = tomllib.loads(example_configuration("example.org", "http://127.0.0.1:8008"))

    made = tomllib.loads(example_configuration("matrix.example", url))

    assert made["homeserver"] == {"url": url, "server_name": "matrix.example"}
    assert {**made, "homeserver": None} == {**before, "homeserver": None}


@pytest.mark.parametrize("as_token", ["a" * 64, "it's: 'quoted' #"])
def test_the_registration_holds_the_as_token_as_it_is(as_token: str) -> None:
    registration = yaml.safe_load(registration_yaml(as_token, "[::1]:8448"))

    assert registration["as_token"] == as_token
    assert registration["namespaces"]["users"][0]["regex"] == r"^@.*:\[::1\]:8448$"


def test_the_same_as_token_gives_the_same_file() -> None:
    assert registration_yaml("a", "example.org") == registration_yaml("a", "example.org")
    assert registration_yaml("a", "example.org") != registration_yaml("b", "example.org")
