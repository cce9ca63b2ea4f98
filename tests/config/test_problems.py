"""What is wrong with a configuration is said with its place and in an operator's words."""

from pathlib import Path

import pytest
from pydantic_core import ErrorDetails

from gateway.config.problems import Places, Report, explanation

FILE = """\
[server]
listen = []

[limits.failed_logins_per_address]
burst = 3
[ jwt ]
  subject_claim = "sub"
"""


def found(kind: str, message: str = "") -> ErrorDetails:
    return {"type": kind, "loc": (), "msg": message, "input": None}


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (("server",), "g.toml:1: [server]: x"),
        (("server", "listen"), "g.toml:2: [server] listen: x"),
        (("server", "via"), "g.toml:1: [server] via: x"),
        (("limits", "failed_logins_per_address", "burst"), "g.toml:5: [limits] failed_logins_per_address.burst: x"),
        (("jwt", "subject_claim"), "g.toml:7: [jwt] subject_claim: x"),
        (("log", "level"), "g.toml: [log] level: x"),
    ],
)
def test_a_line_names_the_nearest_place_that_is_known(keys: tuple[str, ...], place: str) -> None:
    assert Places.of(Path("g.toml"), FILE).line(keys, "x") == place


def test_a_key_that_was_set_elsewhere_has_that_place() -> None:
    places = Places(Path("g.toml"))
    places.note(("jwt", "leeway"), "environment X")

    assert places.line(("jwt", "leeway"), "x") == "environment X: [jwt] leeway: x"
    assert places.line(("jwt", "issuer"), "x") == "environment X: [jwt] issuer: x"


def test_a_report_has_each_line_once_and_names_entries_of_a_list() -> None:
    report = Report(Places(Path("g.toml")))
    report.problem(("jwt", "audience"), "x")
    report.problem(("jwt", "audience"), "x")
    report.problem(("jwt", "audience"), "x", 2)

    assert report.problems == ["g.toml: [jwt] audience: x", "g.toml: [jwt] audience 2: x"]


def test_a_key_is_broken_with_its_table() -> None:
    report = Report(Places(Path("g.toml")), broken={("jwt", "secret"), ("session",)})

    assert report.is_broken("jwt", "format", "secret")
    assert report.is_broken("session", "as_token")
    assert not report.is_broken("jwt", "format")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (("jtw",), "unknown table; the nearest known one is 'jwt'"),
        (("jwt", "leway"), "unknown key; the nearest known one is 'leeway'"),
        (("metrics",), "unknown table"),
    ],
)
def test_an_unknown_key_is_told_with_one_that_is_like_it(keys: tuple[str, ...], text: str) -> None:
    assert explanation(found("extra_forbidden"), keys, ["homeserver", "jwt", "leeway"]) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("Value error, write sqlite:///FILE", "write sqlite:///FILE"),
        ("Input should be a valid integer", "must be a whole number"),
        ("Input should be a valid boolean", "must be true or false"),
        ("Input should be a valid string", 'must be text in quotes, as in "..."'),
        ("Input should be a valid list", 'must be a list, as in ["..."]'),
        ("Input should be a valid dictionary or instance of Bucket", "must be a table, as in { name = value }"),
        ("Input should be greater than 0", "must be greater than 0"),
    ],
)
def test_the_words_are_those_of_toml(message: str, text: str) -> None:
    assert explanation(found("any", message), ("jwt", "x"), []) == text


def test_what_must_be_set_is_missing() -> None:
    assert explanation(found("missing"), ("homeserver", "url"), []) == "is missing; it has no default"
