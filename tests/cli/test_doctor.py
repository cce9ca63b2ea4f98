"""`doctor` as an operator sees it, and what it reads in a registration file."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cli.doctor import registration_findings
from gateway.cli.templates import registration_yaml
from gateway.config import Configuration
from tests.cli.commands import TABLES, configured, run
from tests.fake_homeserver import FakeHomeserver
from tests.running_gateway import write_configuration

AS_TOKEN = "0123456789abcdef0123456789abcdef"
WHOLE = yaml.safe_load(registration_yaml(AS_TOKEN, "example.org"))


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configured(tmp_path, TABLES)


async def test_each_part_is_a_line_and_what_is_wrong_has_its_mend_below(
    homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    path = write_configuration(tmp_path, homeserver.url, {"session": {"as_token": "b6" * 32}})

    result = await asyncio.to_thread(run, "doctor", "-c", str(path))

    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "pass  reachable: the homeserver answers"
    place = lines.index("fail  as_token: the homeserver does not accept it: 401 M_UNKNOWN_TOKEN")
    assert lines[place + 1].startswith("      put the output of `matrix-login-gateway registration`")
    assert "warn  rate_limited: can't be asked of the homeserver, and the registration file is not known" in lines


async def test_warnings_alone_are_status_0(homeserver: FakeHomeserver, tmp_path: Path) -> None:
    path = write_configuration(tmp_path, homeserver.url, {})

    result = await asyncio.to_thread(run, "doctor", "-c", str(path))

    assert "warn  database" in result.stdout
    assert "fail" not in result.stdout
    assert result.returncode == 0


def test_a_configuration_that_is_broken_is_status_2(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("[homeserver]\nurl = 5\n")

    result = run("doctor", "-c", str(tmp_path / "gateway.toml"))

    assert (result.returncode, result.stdout) == (2, "")


def judged(configuration: Configuration, registration: object) -> dict[str, tuple[str, str]]:
    path = configuration.path.parent / "registration.yaml"
    path.write_text(yaml.safe_dump(registration))
    return {finding.name: (finding.verdict, finding.says) for finding in registration_findings(configuration, None)}


def test_the_registration_that_is_printed_passes(configuration: Configuration) -> None:
    assert {verdict for verdict, _ in judged(configuration, WHOLE).values()} == {"pass"}


@pytest.mark.parametrize("value", [True, None, "false", 0])
def test_a_registration_with_limits_is_a_warning(configuration: Configuration, value: object) -> None:
    assert judged(configuration, {**WHOLE, "rate_limited": value})["rate_limited"][0] == "warn"


def users(**entry: Any) -> dict[str, Any]:
    return {"namespaces": {"users": [{"exclusive": False, "regex": "^@.*$", **entry}]}}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"as_token": "another"}, "its as_token is not that of the configuration"),
        ({"url": "http://127.0.0.1:9"}, "its `url` is not null"),
        (users(regex="^@_bridge_.*$"), "none of its regexes for users covers every user"),
        (users(regex="^@[a-z0-9]+:example.org$"), "none of its regexes"),
        (users(regex="^@.*:example.com$"), "none of its regexes"),
        (users(regex="("), "none of its regexes"),
        (users(regex=5), "none of its regexes"),
        ({"namespaces": {}}, "none of its regexes"),
        ({"namespaces": []}, "none of its regexes"),
        (users(exclusive=True), "a namespace is exclusive"),
    ],
)
def test_a_registration_that_does_not_fit_fails(
    configuration: Configuration, change: dict[str, Any], complaint: str
) -> None:
    verdict, says = judged(configuration, {**WHOLE, **change})["registration"]

    assert verdict == "fail"
    assert complaint in says


def test_a_registration_without_url_fails(configuration: Configuration) -> None:
    without = {key: value for key, value in WHOLE.items() if key != "url"}

    assert judged(configuration, without)["registration"][0] == "fail"


def test_the_registration_can_be_named(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("rate_limited: true")

    found = registration_findings(configuration, tmp_path / "other.yaml")

    assert [(finding.name, finding.verdict) for finding in found] == [
        ("rate_limited", "warn"),
        ("registration", "fail"),
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(octets=st.binary(max_size=40) | st.text("!:-&*<{[]}|>,?#\n 'abint0._", max_size=40).map(str.encode))
def test_any_bytes_are_judged(configuration: Configuration, octets: bytes) -> None:
    path = configuration.path.parent / "registration.yaml"
    path.write_bytes(octets)

    assert "fail" in {finding.verdict for finding in registration_findings(configuration, None)}
