"""`doctor` before a real Synapse: well, and ill in the ways that operators meet."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.templates import registration_yaml
from tests.cli.commands import run
from tests.config.running_edge import free_port
from tests.end_to_end.test_nginx import nginx
from tests.real_synapse import NARROW_AS_TOKEN, RealSynapse
from tests.running_gateway import write_configuration

# A URI in proxy_pass, the slash at its end: nginx then decodes the path and writes it anew.
DECODING = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}/; }} }}"
KEEPING = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; }} }}"
PARTS = [
    "reachable",
    "clock",
    "software",
    "server name",
    "paths",
    "as_token",
    "appservice login",
    "namespace",
    "database",
    "rate_limited",
    "registration",
]


def diagnosed(directory: Path, url: str, **tables: dict[str, Any]) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status and findings of the command."""
    path = write_configuration(directory, url, tables)
    as_token = tables.get("session", {}).get("as_token", "a5" * 32)
    (directory / "registration.yaml").write_text(registration_yaml(as_token, "example.org"))
    run("database", "upgrade", "-c", str(path))
    result = run("doctor", "--json", "-c", str(path))
    assert result.stderr == ""
    assert as_token not in result.stdout
    report = json.loads(result.stdout)
    assert report["ok"] is (result.returncode == 0)
    return result.returncode, {finding["name"]: finding for finding in report["findings"]}


def failing(found: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, finding in found.items() if finding["verdict"] == "fail"]


def test_a_healthy_set_up_passes_every_part(synapse: RealSynapse, tmp_path: Path) -> None:
    status, found = diagnosed(tmp_path, synapse.url)

    assert {name: finding["verdict"] for name, finding in found.items()} == dict.fromkeys(PARTS, "pass")
    assert list(found) == PARTS
    assert found["software"]["says"].startswith("Synapse 1.")
    assert status == 0


async def test_no_part_leaves_an_account(synapse: RealSynapse, tmp_path: Path) -> None:
    target = "/_synapse/admin/v2/users?guests=true&deactivated=true"
    before = (await synapse.call("GET", target, synapse.admin_token)).body["total"]

    await asyncio.to_thread(diagnosed, tmp_path, synapse.url)

    assert (await synapse.call("GET", target, synapse.admin_token)).body["total"] == before


def test_an_as_token_that_synapse_does_not_know_fails(synapse: RealSynapse, tmp_path: Path) -> None:
    status, found = diagnosed(tmp_path, synapse.url, session={"as_token": "00" * 32})

    assert (status, failing(found)) == (1, ["as_token"])
    assert "M_UNKNOWN_TOKEN" in found["as_token"]["says"]
    assert found["server name"]["verdict"] == "pass"


async def test_the_token_of_a_device_in_its_place_fails(synapse: RealSynapse, tmp_path: Path, localpart: str) -> None:
    await synapse.register(localpart)
    token = (await synapse.log_in(localpart)).body["access_token"]

    status, found = await asyncio.to_thread(diagnosed, tmp_path, synapse.url, session={"as_token": token})

    assert (status, failing(found)) == (1, ["as_token"])
    assert f"a device of {synapse.user_id(localpart)}" in found["as_token"]["says"]


def test_a_wrong_server_name_fails(synapse: RealSynapse, tmp_path: Path) -> None:
    status, found = diagnosed(
        tmp_path, synapse.url, homeserver={"url": synapse.url, "server_name": "matrix.example.org"}
    )

    assert status == 1
    assert "server name" in failing(found)
    assert 'set [homeserver] server_name = "example.org"' in found["server name"]["mend"]


def test_a_namespace_that_is_too_narrow_fails(synapse: RealSynapse, tmp_path: Path) -> None:
    status, found = diagnosed(tmp_path, synapse.url, session={"as_token": NARROW_AS_TOKEN})

    assert (status, failing(found)) == (1, ["namespace"])
    assert "doctor._=/+-" in found["namespace"]["says"]


def test_a_synapse_that_is_not_there_fails(tmp_path: Path) -> None:
    status, found = diagnosed(tmp_path, f"http://127.0.0.1:{free_port()}")

    assert (status, failing(found)) == (1, ["reachable"])


@pytest.mark.parametrize(("configuration", "verdict"), [(KEEPING, "pass"), (DECODING, "fail")])
async def test_a_proxy_between_that_decodes_paths_fails(
    synapse: RealSynapse, tmp_path: Path, configuration: str, verdict: str
) -> None:
    upstream = synapse.url.rpartition(":")[2]
    (tmp_path / "nginx").mkdir()
    async with nginx(tmp_path / "nginx", configuration, upstream=upstream) as (port, _):
        status, found = await asyncio.to_thread(diagnosed, tmp_path, f"http://127.0.0.1:{port}")

    assert found["paths"]["verdict"] == verdict
    assert status == (verdict == "fail")
