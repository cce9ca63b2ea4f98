"""What the edge tests run: real servers behind a program of `edge_programs`, and a client before it.

Rule: the client writes its requests as octets on a socket, so that no library touches the request target.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import gzip
import hashlib
import json
import os
import random
import shutil
import socket
import ssl
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "matrix.example.org"
FROM_WHEELS = dict.fromkeys(("caddy", "envoy", "traefik"), "pip install --group test")
PACKAGES = {"apache2": "apache2-bin", "caddy of Debian": "caddy"}
TOO_LARGE = "/_matrix/media/v3/upload?too-large"  # refused before its body is read
PACKED = "/_matrix/client/v3/packed"  # answered with gzip to who can read it
ETAG = '"kept"'
MEDIA = random.Random(1).randbytes(3 * 1024 * 1024)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back through the edge."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for field, value in self.fields if field == name]

    @property
    def report(self) -> dict[str, Any]:
        """What the server at the other end saw of the request; field names are in lower case."""
        seen: dict[str, Any] = json.loads(self.body)
        return seen


class Upstream:
    """A real server in the place of the gateway or the homeserver; it reports what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.reached = asyncio.Event()
        self.abandoned = asyncio.Event()
        self.released = asyncio.Event()

    def forget(self) -> None:
        """Be as one that has been asked nothing."""
        for event in (self.reached, self.abandoned, self.released):
            event.clear()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == TOO_LARGE:
            self.reached.set()
            refused = web.json_response({"errcode": "M_TOO_LARGE", "error": "too large"}, status=413)
            refused.force_close()
            return refused
        digest = hashlib.sha256()
        async for chunk in request.content.iter_any():
            self.reached.set()
            digest.update(chunk)
        if request.raw_path.startswith("/_matrix/media/v3/download/"):
            status = 304 if request.headers.get("If-None-Match") == ETAG else 200
            return web.Response(status=status, headers={"ETag": ETAG}, body=MEDIA if status == 200 else None)
        if request.raw_path == PACKED and "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=gzip.compress(MEDIA[:1000]), headers={"Content-Encoding": "gzip"})
        if request.raw_path == "/_matrix/client/v3/sync?hang":
            self.reached.set()
            try:
                await asyncio.wait_for(self.released.wait(), 60)
            except asyncio.CancelledError:
                self.abandoned.set()
                raise
        peer = request.transport.get_extra_info("peername") if request.transport else None
        report = {
            "server": self.name,
            "method": request.method,
            "target": request.raw_path,
            "version": tuple(request.version),
            "fields": [(name.lower(), value) for name, value in request.headers.items()],
            "body": digest.hexdigest(),
            "peer": peer,
        }
        answer = web.json_response(report, headers={"Server": "Synapse/1.163.2"})
        answer.headers.add("Location", f"http://{request.host}/kept")
        answer.headers.add("Set-Cookie", "a=1")
        answer.headers.add("Set-Cookie", "b=2")
        return answer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Upstream"]:
        runner = web.ServerRunner(web.Server(self.answer, handler_cancellation=True))
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()


@dataclasses.dataclass(frozen=True)
class Connection:
    """One TLS connection to the edge."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def start(self, method: str, target: str, *lines: str, length: int = 0) -> None:
        head = [f"{method} {target} HTTP/1.1", f"Host: {NAME}:8448", f"Content-Length: {length}", *lines]
        self.writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        await self.writer.drain()

    async def finish(self, body: bytes = b"", *, head_only: bool = False) -> Answer:
        self.writer.write(body)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        fields = [(name.lower(), value) for name, value in pairs]
        status = int(status_line.split(" ")[1])
        length = 0 if head_only or status == 304 else int(dict(fields)["content-length"])
        return Answer(status, fields, await self.reader.readexactly(length))

    async def ask(self, method: str, target: str, *lines: str, body: bytes = b"") -> Answer:
        await self.start(method, target, *lines, length=len(body))
        return await self.finish(body, head_only=method == "HEAD")


@dataclasses.dataclass(frozen=True)
class Edge:
    """A running program with one of the snippets."""

    program: str
    snippet: str
    port: int
    certificate: Path
    gateway: Upstream
    homeserver: Upstream

    @property
    def not_login(self) -> Upstream:
        """The server that everything but login is to reach."""
        return self.homeserver if "-login-only" in self.snippet else self.gateway

    @property
    def gateways(self) -> int:
        """How many gateways it knows; in the tests of one request at a time, one server stands for all."""
        return 2 if "-several" in self.snippet else 1

    async def ready(self) -> None:
        """Wait until it passes requests on; Traefik listens before it has read where to."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    if (await self.ask("GET", "/_matrix/client/versions")).status == 200:
                        return
                await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def connected(self, address: str = "127.0.0.1") -> AsyncIterator[Connection]:
        """Connect from this address."""
        context = ssl.create_default_context(cafile=self.certificate)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname=NAME, local_addr=(address, 0)
        )
        try:
            yield Connection(reader, writer)
        finally:
            # close() would wait for the edge to say goodbye over TLS, which clients do not do.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, method: str, target: str, *lines: str, body: bytes = b"") -> Answer:
        async with self.connected() as connection:
            return await connection.ask(method, target, *lines, body=body)


def program(name: str) -> str:
    """The path of a program, from a wheel or from the system; missing is a skip here and a failure where CI=true."""
    wheels = sysconfig.get_path("scripts")
    system = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder != wheels]
    folders = [wheels] if name in FROM_WHEELS else [*system, "/usr/sbin", "/usr/local/sbin"]
    found = shutil.which(name.partition(" ")[0], path=os.pathsep.join(folders))
    if found is None:
        debian = f"Debian: apt-get install {PACKAGES.get(name, name)}"
        skip_or_fail(f"{name} is not installed ({FROM_WHEELS.get(name, debian)})")
    return found


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test here, and fail it where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def write_certificate(path: Path) -> None:
    """A certificate for matrix.example.org with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@contextlib.asynccontextmanager
async def process(command: list[str], port: int, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, from the moment that its port answers until it is stopped."""
    with log.open("wb") as output:
        running = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        async with asyncio.timeout(20):
            while not await answers(port):
                assert running.returncode is None, await asyncio.to_thread(log.read_text)
                await asyncio.sleep(0.02)
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.terminate()
        await running.wait()
