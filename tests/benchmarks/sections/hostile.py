"""Hostile heads and bodies: the gateway's processor time for each octet beside a plain request, and what it keeps.

Fresh gateways for each kind: one whose time is measured beside the same for a plain load, and one that is looked at
for memory, without Python's own allocator. An octet is one that it reads, of the client or of the homeserver.
"""

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.hostile_kinds import HOSTILE, PATH, REFERENCES, Hostile
from tests.benchmarks.hostile_upstream import COUNT, MARK
from tests.benchmarks.loads import LoadFailed
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import (
    Memory,
    NotStarted,
    ask,
    confined_to,
    forget_peak,
    free_port,
    memory,
    processor_seconds,
    running,
    until_answers,
)
from tests.benchmarks.proxies import Kind, Proxy, running_proxy

MOST_TIMES = 3.0  # a plain octet's cost
# KiB: what is made once, at first use, is below; of the same load again nothing should be new.
MOST_KEPT = 2048
MOST_MORE = 512
QUICK_STEP = 6  # each needs a gateway of its own
ANSWER_LIMIT = 20.0  # seconds
SETTLING = 0.3  # seconds until connections that ended are forgotten
_PIECE = 2**18
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) ")


@dataclass(frozen=True)
class Cost:
    """The processor time of a load, by request and by octet."""

    answer: str
    connections: int
    octets: int
    microseconds_per_request: float
    nanoseconds_per_octet: float


@dataclass(frozen=True)
class Held:
    """KiB at the peak of a load, after it, and what the same load twice again kept, where it was least."""

    peak: int
    kept: int
    more: int


@dataclass(frozen=True)
class Figures:
    """A kind beside its plain one; `times_plain` is by octet."""

    kind: str
    beside: str
    times_plain: float
    cost: Cost
    plain: Cost
    held: Held


def measure(plan: Plan) -> Report:
    report = Report()
    with confined_to(plan.cores.load), running_upstream(plan) as upstream:
        for kind in HOSTILE[::QUICK_STEP] if plan.quick else HOSTILE:
            plan.say(f"hostile: {kind.name}")
            try:
                report.figures.append(compared(plan, upstream, kind))
            except (LoadFailed, NotStarted) as error:
                report.notes.append(f"{kind.name}: {error}")
    show(report)
    return report


@contextmanager
def running_upstream(plan: Plan) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.hostile_upstream", str(port)]
    with running("upstream-hostile", command, plan.directory, [plan.cores.upstream], {}) as server:
        until_answers(server, port, PATH)
        yield port


def compared(plan: Plan, upstream: int, kind: Hostile) -> Figures:
    seconds = 0.3 if plan.quick else 1.0
    reference = REFERENCES[kind.beside]
    with running_proxy(kind.gateway, plan.directory, upstream, [plan.cores.proxy]) as proxy:
        load(proxy.port, reference, seconds / 3)  # warm-up
        plain = cost(proxy, upstream, reference, seconds)
        found = cost(proxy, upstream, kind, seconds)
    with running_proxy(trimming(kind.gateway), plan.directory, upstream, [plan.cores.proxy]) as proxy:
        load(proxy.port, reference, seconds / 3)
        memory_held = held(proxy, kind, seconds)
    times = found.nanoseconds_per_octet / max(plain.nanoseconds_per_octet, 0.1)
    return Figures(kind.name, kind.beside, round(times, 2), found, plain, memory_held)


def cost(proxy: Proxy, upstream: int, kind: Hostile, seconds: float) -> Cost:
    """Make the load of a kind for some seconds, and say what it cost."""
    sent, begin = int(ask(upstream, COUNT)[1]), processor_seconds(proxy.pid)
    connections, octets, answer = load(proxy.port, kind, seconds)
    time.sleep(SETTLING)
    spent = processor_seconds(proxy.pid) - begin
    octets += int(ask(upstream, COUNT)[1]) - sent
    return Cost(
        answer,
        connections,
        octets // connections,
        round(spent / (connections * kind.requests) * 1e6, 1),
        round(spent / octets * 1e9, 1),
    )


def trimming(gateway: Kind) -> Kind:
    """Return a gateway that gives back what it does not use when told; Python's arenas would keep some of that."""

    def write(directory: Path, port: int, upstream: int) -> list[str]:
        command = gateway.write(directory, port, upstream)
        return [part if part != "gateway" else "tests.benchmarks.trimming" for part in command]

    return replace(gateway, write=write, environment={"PYTHONMALLOC": "malloc"})


def held(proxy: Proxy, kind: Hostile, seconds: float) -> Held:
    """Make the load of a kind three times, and say what it holds meanwhile and afterwards."""
    begin = trimmed(proxy.pid)
    forget_peak(proxy.pid)
    connections, _, _ = load(proxy.port, kind, seconds)
    looks = [trimmed(proxy.pid)]
    for _ in range(2):
        connections += load(proxy.port, kind, seconds, connections)[0]
        looks.append(trimmed(proxy.pid))
    first, second, third = (look.pss for look in looks)
    return Held(
        max(looks[0].peak - begin.rss, 0), max(first - begin.pss, 0), max(min(second - first, third - second), 0)
    )


def trimmed(pid: int) -> Memory:
    """Return what a gateway still holds once its connections have ended, and what nothing uses is given back."""
    time.sleep(SETTLING)
    os.kill(pid, signal.SIGUSR2)
    time.sleep(SETTLING)
    return memory(pid)


def load(port: int, kind: Hostile, seconds: float, first: int = 0) -> tuple[int, int, str]:
    """Make connections until the time is over; return how many, the octets that were sent, and the last answer.

    `first` is the number of the first one: what went before was different.
    """
    ends, connections, octets, answer = time.monotonic() + seconds, 0, 0, "-"
    while connections < kind.most and (not connections or time.monotonic() < ends):
        if kind.at_once:
            octets += hold(port, kind, first + connections)
        else:
            sent = kind.octets(first + connections)
            answer = exchange(port, kind, sent)
            octets += len(sent)
        connections += kind.at_once or 1
    return connections, octets, answer


def exchange(port: int, kind: Hostile, octets: bytes) -> str:
    """Have one connection to its end; return the status of its first answer."""
    with connected(port) as connection:
        try:
            received = b""
            for piece in requests(octets) if kind.in_turn else [octets]:
                send(connection, piece, kind.piece)
                received += until_mark(connection) if kind.in_turn else b""
            received += rest(connection)
        except TimeoutError:
            raise LoadFailed(f"no answer within {ANSWER_LIMIT:g} seconds") from None
    found = _STATUS.search(received)
    return found[1].decode() if found else "none"


def hold(port: int, kind: Hostile, number: int) -> int:
    """Have so many connections at once that wait for nothing; return the octets that were sent."""
    sent = 0
    with ExitStack() as stack:
        for place in range(kind.at_once):
            octets = kind.octets(number + place)
            connection = stack.enter_context(connected(port))
            send(connection, octets)
            sent += len(octets)
        time.sleep(SETTLING)
    return sent


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def requests(octets: bytes) -> list[bytes]:
    """Return the requests of a connection, which have no bodies."""
    return [request + b"\r\n\r\n" for request in octets.split(b"\r\n\r\n")[:-1]]


def send(connection: socket.socket, octets: bytes, piece: int = 0) -> None:
    """Send; a gateway that refuses them may end the connection meanwhile."""
    with suppress(ConnectionError):
        for start in range(0, len(octets), piece or len(octets)):
            connection.sendall(octets[start : start + (piece or len(octets))])


def until_mark(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(MARK) and (piece := connection.recv(_PIECE)):
        received += piece
    return received


def rest(connection: socket.socket) -> bytes:
    """Return everything until the connection ends."""
    received = []
    with suppress(ConnectionError):
        while piece := connection.recv(_PIECE):
            received.append(piece)
    return b"".join(received)


def show(report: Report) -> None:
    columns = ["kind", "beside", "answer", "us each", "ns an octet", "times plain", "KiB at most", "kept", "again"]
    rows = [
        [
            figure.kind,
            figure.beside,
            figure.cost.answer,
            f"{figure.cost.microseconds_per_request:,.0f}",
            f"{figure.cost.nanoseconds_per_octet:,.0f}",
            f"{figure.times_plain:.2f}",
            f"{figure.held.peak:,}",
            f"{figure.held.kept:,}",
            f"{figure.held.more:,}",
        ]
        for figure in report.figures
    ]
    report.tables.append(table("Hostile heads and bodies beside plain ones", columns, rows))
    dear = [f"{figure.kind} {figure.times_plain:.1f}" for figure in report.figures if figure.times_plain > MOST_TIMES]
    kept = [
        f"{figure.kind} {figure.held.kept:,} and {figure.held.more:,}"
        for figure in report.figures
        if figure.held.kept > MOST_KEPT or figure.held.more > MOST_MORE
    ]
    report.notes += [
        *(f"Beside {name!r}: {reference.name}." for name, reference in REFERENCES.items()),
        f"Above {MOST_TIMES:g} times plain by octet: {', '.join(dear) or 'none'}.",
        f"Above {MOST_KEPT:,} KiB kept, or {MOST_MORE:,} more after as many again: {', '.join(kept) or 'none'}.",
    ]
