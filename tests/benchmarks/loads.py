"""The loads: wrk for many small requests, and one client of our own for one large body.

Rule: each is bounded, wrk by its seconds and the client by its bytes and a time limit.
"""

import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.own_upstreams import DOWNLOAD, UPLOAD
from tests.benchmarks.processes import on_cores

# What Element in a browser sends.
ELEMENT: Mapping[str, str] = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Element/1.11.80",
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate, br",
    "Accept-Language": "en-US,en;q=0.9",
    "Authorization": "Bearer syt_YWxpY2U_abcdefghijklmnopqrst_0abcde",
    "Origin": "https://app.element.io",
}

_MIB = 2**20
_TRANSFER_LIMIT = 120.0  # seconds without a byte
_SCRIPT = """
wrk.method = {method}
wrk.body = {body}
{headers}
function done(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format("figures %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), failed))
end
"""
_FIGURES = re.compile(r"^figures (\d+) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)


class LoadFailed(Exception):
    """A load could not be made, or its answer was not what was asked for; the text says what happened."""


@dataclass(frozen=True)
class Request:
    """What wrk sends again and again."""

    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: ELEMENT)


@dataclass(frozen=True)
class Load:
    """What wrk counted; milliseconds. `failed` are broken connections and answers other than 2xx and 3xx."""

    requests: int
    seconds: float
    p50: float
    p99: float
    failed: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def wrk(port: int, request: Request, connections: int, seconds: int, directory: Path, cores: Sequence[int]) -> Load:
    """Load a port of ours with one thread of wrk."""
    script = directory / "wrk.lua"
    script.write_text(
        _SCRIPT.format(
            method='"POST"' if request.body else '"GET"',
            body=json.dumps(request.body.decode()) if request.body else "nil",
            headers="\n".join(
                f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in request.headers.items()
            ),
        )
    )
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    command = on_cores(cores, ["wrk", *options, f"http://127.0.0.1:{port}{request.path}"])
    if shutil.which("wrk") is None:
        raise LoadFailed("wrk is not installed")
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 20)
    figures = _FIGURES.search(found.stdout)
    if figures is None:
        raise LoadFailed(f"wrk said: {found.stdout}{found.stderr}")
    requests, microseconds, p50, p99, failed = (int(figure) for figure in figures.groups())
    return Load(requests, microseconds / 1e6, p50 / 1000, p99 / 1000, failed)


def download(port: int, size: int) -> float:
    """Fetch `size` bytes and return the MiB a second."""
    buffer = bytearray(_MIB)
    read = 0
    with _timed_transfer(port, "download") as (connection, speed):
        connection.request("GET", f"{DOWNLOAD}{size}")
        response = connection.getresponse()
        while count := response.readinto(buffer):
            read += count
    if read != size:
        raise LoadFailed(f"a download ended after {read} of {size} bytes (status {response.status})")
    return speed(size)


def upload(port: int, size: int) -> float:
    """Send `size` bytes, wait until the upstream says that it has read them, and return the MiB a second."""
    with _timed_transfer(port, "upload") as (connection, speed):
        connection.request("POST", UPLOAD, _blocks(size), {"Content-Length": str(size)})
        response = connection.getresponse()
        answer = response.read()
    if response.status != 200 or json.loads(answer) != {"read": size}:
        raise LoadFailed(f"an upload of {size} bytes was answered {response.status} {answer[:200]!r}")
    return speed(size)


@contextmanager
def _timed_transfer(port: int, name: str) -> Iterator[tuple[http.client.HTTPConnection, Callable[[int], float]]]:
    """Yield a connection, and what turns a size into the MiB a second until the block's end."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TRANSFER_LIMIT)
    ended = began
    try:
        yield connection, lambda size: size / _MIB / (ended - began)
    except (OSError, http.client.HTTPException) as error:
        raise LoadFailed(f"the {name} broke off: {error}") from error
    finally:
        ended = time.perf_counter()
        connection.close()


def _blocks(size: int) -> Iterator[memoryview]:
    block = memoryview(bytes(_MIB))
    while size:
        count = min(size, len(block))
        size -= count
        yield block[:count]
