"""What the edge snippets say, and that README.md quotes the very files; what they do is in `test_edge`."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from gateway.web.settings import ServerSettings
from tests.config.edge_programs import SNIPPETS, runs
from tests.config.running_edge import program

README = (SNIPPETS.parent / "README.md").read_text()
FILES = sorted(SNIPPETS.iterdir())
# By the beginning of a file's name: the seconds that an answer or an upload may take, 0 for ever, and those that a
# connection to the gateway stays open unused. Caddy sets no limit to the first; HAProxy keeps the second to 5 s.
LIMITS = {
    "Caddyfile": (None, r"\tkeepalive (\d+)s"),
    "apache": (r" timeout=(\d+)", r" ttl=(\d+)"),
    "envoy": (r"(?:stream_idle_timeout| timeout): (\d+)s", r"{ idle_timeout: (\d+)s"),
    "haproxy": (r"timeout (?:server|client) (\d+)s", None),
    "nginx": (r"proxy_(?:read|send)_timeout (\d+)s", r" keepalive_timeout (\d+)s"),
    "traefik-all.yaml": (None, r"idleConnTimeout: (\d+)s"),
    "traefik-static.yaml": (r"readTimeout: (\d+)s", None),
}


def limits(path: Path) -> tuple[str | None, str | None]:
    return LIMITS.get(path.name) or LIMITS[path.name.partition("-")[0]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_readme_quotes_the_snippet_exactly(path: Path) -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert blocks.count(path.read_text()) == 1


@pytest.mark.parametrize("path", [path for path in FILES if limits(path)[0]], ids=lambda path: path.name)
def test_no_time_limit_is_shorter_than_a_long_sync(path: Path) -> None:
    seconds = [int(found) for found in re.findall(limits(path)[0] or "", path.read_text())]
    assert seconds
    assert all(limit == 0 or limit >= 600 for limit in seconds)


@pytest.mark.parametrize("path", [path for path in FILES if limits(path)[1]], ids=lambda path: path.name)
def test_the_edge_closes_unused_connections_before_the_gateway_does(path: Path) -> None:
    seconds = [int(found) for found in re.findall(limits(path)[1] or "", path.read_text())]
    assert seconds
    assert all(0 < limit < ServerSettings().keepalive_timeout for limit in seconds)


@pytest.mark.parametrize(("snippet", "name"), [run for run in runs() if run[0].startswith("Caddyfile")])
def test_caddy_accepts_its_snippet_as_it_is(snippet: str, name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [program(name), "validate", "--adapter", "caddyfile", "--config", str(SNIPPETS / snippet)],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
