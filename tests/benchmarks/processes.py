"""Processes of the benchmarks: started on chosen cores, stopped by their id, and what /proc says of them.

Rule: whatever starts here ends with its block, and with us should we be killed (setpriv's death signal).
"""

import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_LIMIT = 30.0  # seconds; 3 are usual for the slowest
STOP_LIMIT = 5.0  # seconds from SIGTERM to SIGKILL
_POLL_INTERVAL = 0.05
_ERROR_LINES = 4


class NotStarted(Exception):
    """A server is not installed or did not start; the text says why."""


@dataclass(frozen=True)
class Cores:
    """Which cores the parts of a measurement are pinned to; with two cores, upstream and load share one."""

    proxy: int
    upstream: int
    load: int
    every: tuple[int, ...]


@dataclass(frozen=True)
class Running:
    """A process that was started; its output goes to `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True)
class Memory:
    """What one process holds, in KiB: resident, its proportional share, and the peak of resident."""

    rss: int
    pss: int
    peak: int


def own_cores() -> Cores:
    every = tuple(sorted(os.sched_getaffinity(0)))
    return Cores(proxy=every[0], upstream=every[1 % len(every)], load=every[-1], every=every)


@contextmanager
def confined_to(core: int) -> Iterator[None]:
    """Keep this process on one core while the block runs: for loads that it makes itself."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def on_cores(cores: Sequence[int], command: Sequence[str]) -> list[str]:
    return ["taskset", "-c", ",".join(str(core) for core in cores), *command]


@contextmanager
def running(
    name: str, command: Sequence[str], directory: Path, cores: Sequence[int], environment: Mapping[str, str]
) -> Iterator[Running]:
    """Run a server until the block is left; setpriv and taskset replace themselves by it, so the id is its own."""
    whole = on_cores(cores, command)
    if setpriv := shutil.which("setpriv"):
        whole[:0] = [setpriv, "--pdeathsig", "TERM"]
    path = directory / f"{name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            whole,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield Running(name, process, path)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        pass
    finally:  # does nothing to one that has ended
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until_answers(server: Running, port: int, path: str) -> None:
    """Return when a GET of `path` is answered with 200; raises NotStarted."""
    deadline = time.monotonic() + START_LIMIT
    last = "nothing listens"
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise NotStarted(f"{server.name} ended (status {server.process.returncode}): {log_end(server)}")
        try:
            status, _ = ask(port, path)
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        else:
            if status == 200:
                return
            last = f"it answers {status}"
        time.sleep(_POLL_INTERVAL)
    raise NotStarted(f"{server.name} was not ready within {START_LIMIT:g} seconds, {last}: {log_end(server)}")


def ask(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def log_end(server: Running) -> str:
    lines = [line for line in server.log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return " / ".join(lines[-_ERROR_LINES:]) or "its log is empty"


def processor_seconds(pid: int) -> float:
    """User and system time so far of a process and its descendants (proc(5): fields 14 and 15 of stat)."""
    ticks = 0
    for member in _tree(pid):
        fields = _stat(member)
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended meanwhile
    members = {pid}
    while found := {child for child, parent in parents.items() if parent in members} - members:
        members |= found
    return members


def _stat(pid: int) -> list[str]:
    """Return the fields behind the name, which may hold spaces and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()


def memory(pid: int) -> Memory:
    status = _kibibytes(Path(f"/proc/{pid}/status"))
    return Memory(status["VmRSS"], _kibibytes(Path(f"/proc/{pid}/smaps_rollup"))["Pss"], status["VmHWM"])


def forget_peak(pid: int) -> None:
    """Set VmHWM back to what is resident now (proc(5): clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _kibibytes(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}


def listening_sockets(port: int) -> int:
    """How many sockets listen on a port: with SO_REUSEPORT one for each process (proc(5): state 0A)."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(1 for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port)
