"""What stands behind the proxies: nginx for many small answers, and two servers of our own in their processes."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.processes import Running, free_port, running, until_answers
from tests.benchmarks.proxies import NGINX, VERSIONS, nginx_command, nginx_configuration, version

MEDIUM = "/_matrix/client/v3/sync"
LARGE = "/_matrix/client/v1/media/thumbnail/bench.localhost/large"
POSTED = "/_matrix/client/v3/keys/upload"

# 174 bytes: what a homeserver's shorter answers have.
_SMALL = json.dumps(
    {
        "versions": [f"v1.{number}" for number in range(1, 12)],
        "unstable_features": {"org.matrix.label_based_filtering": True, "org.matrix.e2e": 1},
    },
    separators=(",", ":"),
)


@contextmanager
def running_nginx_upstream(directory: Path, cores: Sequence[int]) -> Iterator[tuple[int, Running]]:
    """Run an nginx with one worker that answers VERSIONS and POSTED small, MEDIUM with 4 KiB, LARGE with 64 KiB."""
    version(NGINX)
    own = directory / "upstream"
    own.mkdir(exist_ok=True)
    (own / "medium").write_bytes(b"m" * 4096)
    (own / "large").write_bytes(b"l" * 65536)
    port = free_port()
    blocks = f"""
        default_type application/json; open_file_cache max=8; sendfile on; tcp_nopush on;
        server {{
            listen 127.0.0.1:{port} backlog=4096;
            location / {{ return 200 '{_SMALL}'; }}
            location = {MEDIUM} {{ alias {own}/medium; }}
            location = {LARGE} {{ alias {own}/large; }}
        }}"""
    (own / "nginx.conf").write_text(nginx_configuration(blocks))
    with running("upstream", nginx_command(own), own, cores, {}) as server:
        until_answers(server, port, VERSIONS)
        yield port, server


@contextmanager
def running_own_upstream(name: str, directory: Path, cores: Sequence[int]) -> Iterator[int]:
    """Run one of `own_upstreams`, by its name there; yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.own_upstreams", name, str(port)]
    with running(f"upstream-{name}", command, directory, cores, {}) as server:
        until_answers(server, port, VERSIONS)
        yield port
