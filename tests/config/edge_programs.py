"""The programs that run a snippet of config/edge: where each is, and how it runs without touching the machine.

Rule: a snippet is run as it is, TLS included; only ports, certificate paths and its own file names are put in place.
"""

import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.config.running_edge import NAME, Edge, process, program

STATIC: Final = "traefik-static.yaml"  # not run by itself
SNIPPETS: Final = Path(__file__).parents[2] / "config" / "edge"
# What the Apache snippet asks for, and what Debian's httpd has switched on without being asked.
APACHE_MODULES: Final = (
    *("headers", "http2", "proxy", "proxy_http", "ssl", "unique_id"),
    *("mpm_event", "authz_core", "reqtimeout"),
)

# By the beginning of a snippet's name: the programs that run it.
PROGRAMS: Final[Mapping[str, Sequence[str]]] = {
    "Caddyfile": ("caddy", "caddy of Debian"),
    "apache": ("apache2",),
    "envoy": ("envoy",),
    "haproxy": ("haproxy",),
    "nginx": ("nginx",),
    "traefik": ("traefik",),
}


@dataclass(frozen=True)
class Behind:
    """The ports of what is behind the edge: gateways, as many as it knows, with their health, and the homeserver."""

    gateways: Sequence[int]
    health: Sequence[int]
    homeserver: int


def put_in_place(snippet: str, port: int, certificate: Path, behind: Behind) -> str:
    """The snippet with our ports and certificate; nothing else changes."""
    here = f"127.0.0.1:{port}"
    site = f"https://{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls {certificate} {certificate}\n"
    for there, ours in (
        ("    listen [::]:443 ssl http2;\n", ""),  # nginx
        ("listen 443 ", f"listen {here} "),
        ("bind :::443 v4v6 ", f"bind {here} "),  # HAProxy
        (f"\n{NAME} {{\n", f"\n{site}"),  # Caddy
        ("<VirtualHost *:443>", f"<VirtualHost {here}>"),  # Apache
        ('{ address: "::", port_value: 443, ipv4_compat: true }', f"{{ address: 127.0.0.1, port_value: {port} }}"),
        ("port_value: 8010 ", f"port_value: {behind.gateways[0]} "),  # Envoy
    ):
        snippet = snippet.replace(there, ours)
    assert not re.search(r"\b443\b", snippet)
    snippet = re.sub(r"/etc/\S+\.pem", str(certificate), snippet)
    addresses = ("10.0.0.6", "10.0.0.7") if "10.0.0.6" in snippet else ("127.0.0.1",)
    for address, gateway, health in zip(addresses, behind.gateways, behind.health, strict=True):
        snippet = snippet.replace(f"{address}:8010 check port 9010", f"{address}:8010 check port {health}")
        snippet = snippet.replace(f"{address}:8010", f"127.0.0.1:{gateway}")
    snippet = snippet.replace("127.0.0.1:8008", f"127.0.0.1:{behind.homeserver}")
    assert "8010" not in snippet
    return snippet


def runs() -> Sequence[tuple[str, str]]:
    """Each snippet that is run by itself, with each program that runs it."""
    names = sorted(path.name for path in SNIPPETS.iterdir() if path.name != STATIC)
    return [(name, by) for name in names for by in PROGRAMS[name.partition("-")[0]]]


@asynccontextmanager
async def running(edge: Edge, folder: Path, behind: Behind) -> AsyncIterator[Edge]:
    """Run an edge, from the moment that it passes requests on until it is stopped."""
    text = put_in_place((SNIPPETS / edge.snippet).read_text(), edge.port, edge.certificate, behind)
    async with process(command_line(edge.program, folder, text, edge.port), edge.port, folder / "log"):
        await edge.ready()
        yield edge


def command_line(name: str, folder: Path, snippet: str, port: int) -> list[str]:
    """How to run the snippet in the foreground, listening at `port` and writing only below `folder`."""
    (folder / "snippet.conf").write_text(snippet)
    return COMMANDS[name.partition(" ")[0]](program(name), folder, port)


def _apache2(path: str, folder: Path, port: int) -> list[str]:
    modules = Path("/usr/lib/apache2/modules")
    lines = [f"LoadModule {module}_module {modules}/mod_{module}.so" for module in APACHE_MODULES]
    lines += [f"Listen 127.0.0.1:{port}", f"ServerName {NAME}", f"ServerRoot {folder}", f"PidFile {folder}/pid"]
    lines += [f"DefaultRuntimeDir {folder}", f"Mutex file:{folder} default", "ErrorLog /dev/stderr"]
    if os.geteuid() == 0:
        lines += ["User www-data", "Group www-data"]
    (folder / "apache2.conf").write_text("\n".join([*lines, f"Include {folder}/snippet.conf", ""]))
    return [path, "-DFOREGROUND", "-f", str(folder / "apache2.conf")]


def _caddy(path: str, folder: Path, _port: int) -> list[str]:
    options = ("admin off", "auto_https disable_redirects", "servers {\nprotocols h1 h2\n}")
    lines = ["{", *options, "}", f"import {folder}/snippet.conf", ""]
    (folder / "Caddyfile").write_text("\n".join(lines))
    home = [f"{name}={folder}" for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")]
    arguments = ["run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    return [program("env"), *home, path, *arguments]


def _envoy(path: str, folder: Path, _port: int) -> list[str]:
    (folder / "snippet.conf").rename(folder / "envoy.yaml")
    arguments = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    return [path, "-c", str(folder / "envoy.yaml"), *arguments]


def _haproxy(path: str, folder: Path, _port: int) -> list[str]:
    (folder / "global.conf").write_text("global\n    log stderr format raw daemon\n")
    # -dW: a warning is an error.
    files = ["-f", str(folder / "global.conf"), "-f", str(folder / "snippet.conf")]
    return [path, "-dW", "-db", *files]


def _nginx(path: str, folder: Path, _port: int) -> list[str]:
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/snippet.conf;\n}}\n"
    )
    return [path, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _traefik(path: str, folder: Path, port: int) -> list[str]:
    (folder / "snippet.conf").rename(folder / "matrix.yaml")
    static = (SNIPPETS / STATIC).read_text()
    static = static.replace('":443"', f'"127.0.0.1:{port}"').replace("/etc/traefik", str(folder))
    (folder / "traefik.yaml").write_text(f"global:\n  checkNewVersion: false\n{static}")
    return [path, f"--configFile={folder}/traefik.yaml"]


COMMANDS: Final[Mapping[str, Callable[[str, Path, int], list[str]]]] = {
    "apache2": _apache2,
    "caddy": _caddy,
    "envoy": _envoy,
    "haproxy": _haproxy,
    "nginx": _nginx,
    "traefik": _traefik,
}
