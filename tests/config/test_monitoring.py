"""Dashboard, alert rules and the table of the README name metrics that a running gateway has, and are well formed.

A missing promtool is a skip with the reason, and a failure where CI=true.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import Refusal
from tests.fake_homeserver import FakeHomeserver
from tests.running_gateway import mint, running_gateway
from tests.test_readme import rows, section

FOLDER = Path(__file__).parents[2] / "config" / "monitoring"
ALERTS = FOLDER / "alerts.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
# Each with its place, for the report.
EXPRESSIONS = [
    *((rule["alert"], rule["expr"]) for rule in RULES),
    *((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]),
]
# What Prometheus itself adds.
OF_PROMETHEUS = {"job", "instance"}
# Told only where an issuer's keys are fetched.
OF_KEY_SETS = {"matrix_login_gateway_key_set_age_seconds": {"issuer"}}


@pytest.fixture
async def told(tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int) -> dict[str, set[str]]:
    """The labels of each metric of a gateway that has work."""
    server = {"admin_listen": f"127.0.0.1:{unused_tcp_port}"}
    async with running_gateway(tmp_path, homeserver.url, server=server) as gateway:
        await gateway.log_in(mint())
        async with aiohttp.ClientSession() as client:
            async with client.get(f"http://127.0.0.1:{unused_tcp_port}/metrics") as response:
                text = await response.text()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return {**OF_KEY_SETS, **labels}


def metrics_of(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that an expression names, each with the labels that it is matched by or summed by."""
    summed = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")}
    for name, matchers in re.findall(r"\b((?:matrix_login_gateway|process)_\w+)(?:\{([^}]*)\})?", expression):
        yield name, summed | set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers))


def promtool(*arguments: str | Path) -> str:
    """What promtool says when all is well."""
    path = shutil.which("promtool")
    if path is None:
        assert os.environ.get("CI") != "true", "promtool is not installed"
        pytest.skip("promtool is not installed")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_metric_and_label_that_is_asked_for_is_there(told: dict[str, set[str]]) -> None:
    for place, expression in EXPRESSIONS:
        named = list(metrics_of(expression))
        assert named or "up{" in expression, place
        for name, labels in named:
            assert name in told, f"{place}: {name}"
            assert labels <= told[name] | OF_PROMETHEUS, f"{place}: {name}"


def test_every_metric_of_the_gateway_is_in_the_readme_with_its_labels(told: dict[str, set[str]]) -> None:
    listed = {cells[0].strip("`"): set(re.findall(r"`(\w+)`", cells[1])) for cells in rows(section("Metrics"))}
    ours = {
        re.sub(r"_(bucket|count|sum)$", "", name): labels - {"le"}
        for name, labels in told.items()
        if name.startswith("matrix_login_gateway") and not name.endswith("_created")
    }
    assert {name: labels for name, labels in listed.items() if not name.startswith("process")} == ours


def test_every_outcome_that_is_asked_for_can_happen() -> None:
    asked = {
        outcome
        for _, expression in EXPRESSIONS
        for outcomes in re.findall(r'outcome(?:=~|!=|=)"([^"]*)"', expression)
        for outcome in outcomes.split("|")
    }

    assert asked <= {"ok", "by_homeserver", *(refusal.name.lower() for refusal in Refusal)}


def test_every_rule_says_what_happens_and_what_to_do() -> None:
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_the_rules_are_rules_and_alert_as_they_should(tmp_path: Path) -> None:
    promtool("check", "rules", ALERTS)
    tests = (Path(__file__).parent / "alerts_test.yml").read_text(encoding="utf-8")
    (tmp_path / "test.yml").write_text(tests.replace("ALERTS", str(ALERTS)), encoding="utf-8")
    promtool("test", "rules", tmp_path / "test.yml")


def test_every_expression_of_the_dashboard_is_one(tmp_path: Path) -> None:
    rules = [
        {"record": "checked", "expr": target["expr"].replace("$__rate_interval", "5m"), "labels": {"place": place}}
        for panel in PANELS
        for place, target in ((f"{panel['title']} {target['refId']}", target) for target in panel["targets"])
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")

    assert f"{len(rules)} rules found" in promtool("check", "rules", path)


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    places = sorted((panel["gridPos"]["y"], panel["gridPos"]["x"], panel["gridPos"]["w"]) for panel in PANELS)

    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(x + width <= 24 for _, x, width in places)
    assert all(one[0] != other[0] or one[1] + one[2] <= other[1] for one, other in pairwise(places))
