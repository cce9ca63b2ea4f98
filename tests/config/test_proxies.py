"""Proxies that name the client by the PROXY protocol, and speak no HTTP: real ones before the gateway.

Rule: what README.md says of them is what is configured here.
"""

import asyncio
import os
import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.authority import LOOPBACK, authority_in
from tests.config.running_edge import free_port, process, program, skip_or_fail
from tests.raw_http import RawClient, RawServer, Script, connected
from tests.running_gateway import running_gateway

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\n\r\n"
README = (Path(__file__).parents[2] / "config" / "README.md").read_text()


def haproxy(folder: Path, port: int, gateway: int, options: str) -> list[str]:
    """HAProxy passes TCP on, and looks each 100 ms whether the gateway is there; with "ssl " first it ends TLS."""
    tls, options = (f"ssl crt {folder}/server.pem", options[4:]) if options.startswith("ssl ") else ("", options)
    (folder / "haproxy.cfg").write_text(
        f"""
        global
            log stderr format raw daemon
        defaults
            mode tcp
            timeout connect 5s
            timeout client 60s
            timeout server 60s
        frontend clients
            bind 127.0.0.1:{port} {tls}
            default_backend gateway
        backend gateway
            server gateway 127.0.0.1:{gateway} {options} check inter 100
        """.rstrip(" ")
    )
    return [program("haproxy"), "-dW", "-db", "-f", str(folder / "haproxy.cfg")]


def nginx(folder: Path, port: int, gateway: int) -> list[str]:
    """nginx passes TCP on, by its stream module."""
    path = program("nginx")
    built = subprocess.run([path, "-V"], capture_output=True, text=True, check=True).stderr
    load = ""
    if "--with-stream=dynamic" in built:
        found = re.search(r"--modules-path=(\S+)", built)
        module = Path(found[1] if found else "/usr/lib/nginx/modules", "ngx_stream_module.so")
        if not module.exists():
            skip_or_fail("nginx has no stream module (Debian: apt-get install libnginx-mod-stream)")
        load = f"load_module {module};"
    elif "--with-stream" not in built:
        skip_or_fail("nginx was built without its stream module")
    (folder / "nginx.conf").write_text(
        f"""
        {load}
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr; events {{}}
        stream {{
            server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{gateway}; proxy_protocol on; }}
        }}
        """
    )
    return [path, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def hitch(folder: Path, port: int, gateway: int) -> list[str]:
    """hitch ends TLS, and does nothing else."""
    (folder / "hitch.conf").write_text(
        f"""
        frontend = {{ host = "127.0.0.1"; port = "{port}" }}
        backend = "[127.0.0.1]:{gateway}"
        pem-file = "{folder}/server.pem"
        write-proxy-v2 = on
        daemon = off
        {'user = "nobody"' if os.geteuid() == 0 else ""}
        """
    )
    return [program("hitch"), f"--config={folder}/hitch.conf"]


PROXIES = ["send-proxy", "send-proxy-v2", "nginx"]


@asynccontextmanager
async def before_the_gateway(proxy: str, folder: Path, listen: str, script: Script) -> AsyncIterator[int]:
    """Give the port of the proxy, of which the gateway believes that clients are who it says."""
    port = free_port()
    server = {
        "listen": [listen],
        "tls_certificate": "server.pem",
        "tls_private_key": "server.pem",
        "trusted_proxies": ["127.0.0.1/32"],
        "drain_timeout": 0.2,
        "head_timeout": 5,
    }
    if not listen.startswith("proxy:tls:"):
        del server["tls_certificate"], server["tls_private_key"]
    async with RawServer(script).running() as upstream:
        async with running_gateway(folder, upstream.url, server=server) as gateway:
            made = {"nginx": nginx, "hitch": hitch}.get(proxy)
            command = made(folder, port, gateway.port) if made else haproxy(folder, port, gateway.port, proxy)
            async with process(command, port, folder / "log"), asyncio.timeout(30):
                yield port
        assert "connection_refused" not in gateway.log  # also not of those who only look
        assert "Traceback" not in gateway.log


def told(request: bytes) -> list[bytes]:
    return [line for line in request.split(b"\r\n") if line.startswith(b"X-Forwarded-")]


@pytest.mark.parametrize("proxy", PROXIES)
async def test_the_client_of_a_proxy_that_passes_tcp_on_is_known(proxy: str, tmp_path: Path) -> None:
    """It comes from 127.0.0.2, and the proxy from 127.0.0.1."""
    script = Script(OK)
    async with before_the_gateway(proxy, tmp_path, "proxy:127.0.0.1:0", script) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        client = RawClient(reader, writer)
        for _ in range(2):
            await client.send(GET)
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await asyncio.sleep(0.3)  # some looks whether it is there
        async with connected(port) as other:
            await other.send(GET)
            await other.answer()
    expected = [b"X-Forwarded-For: 127.0.0.2", b"X-Forwarded-Host: h"]
    assert [told(request) for request in script.requests[:2]] == [expected] * 2
    # One from the proxy's own machine could be a proxy that speaks for its client.
    assert b"X-Forwarded-For: 6.6.6.6" in told(script.requests[2])


async def told_over_tls(proxy: str, folder: Path, listen: str) -> list[bytes]:
    """What the homeserver is told of a client that speaks TLS and comes from 127.0.0.2."""
    authority_in(folder).server(LOOPBACK)
    script = Script(OK)
    context = ssl.create_default_context(cafile=folder / "authority.pem")
    async with before_the_gateway(proxy, folder, listen, script) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=("127.0.0.2", 0), ssl=context, server_hostname="127.0.0.1"
        )
        client = RawClient(reader, writer)
        await client.send(GET)
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        writer.transport.abort()
    return told(script.requests[0])


HTTPS = [b"X-Forwarded-For: 127.0.0.2", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: h"]


@pytest.mark.parametrize("proxy", PROXIES)
async def test_behind_the_header_the_client_speaks_tls_with_the_gateway(proxy: str, tmp_path: Path) -> None:
    assert await told_over_tls(proxy, tmp_path, "proxy:tls:127.0.0.1:0") == HTTPS


@pytest.mark.parametrize("proxy", ["ssl send-proxy-v2-ssl", "ssl send-proxy-v2-ssl-cn", "hitch"])
async def test_a_proxy_that_ended_tls_and_says_so_is_believed(proxy: str, tmp_path: Path) -> None:
    assert await told_over_tls(proxy, tmp_path, "proxy:127.0.0.1:0") == HTTPS


@pytest.mark.parametrize("proxy", ["ssl send-proxy", "ssl send-proxy-v2"])
async def test_of_a_proxy_that_ended_tls_and_does_not_say_so_the_address_says_it(proxy: str, tmp_path: Path) -> None:
    unsaid = await told_over_tls(proxy, tmp_path, "proxy:127.0.0.1:0")

    assert unsaid == [line for line in HTTPS if b"Proto" not in line]
    assert await told_over_tls(proxy, tmp_path, "proxy+https:127.0.0.1:0") == HTTPS


async def test_who_spoke_no_tls_with_a_proxy_that_says_so_did_not_whatever_the_address_says(tmp_path: Path) -> None:
    script = Script(OK)
    async with before_the_gateway("send-proxy-v2-ssl", tmp_path, "proxy+https:127.0.0.1:0", script) as port:
        async with connected(port) as client:
            await client.send(GET.replace(b"X-Forwarded", b"X-Other"))
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    assert b"X-Forwarded-Proto: http" in told(script.requests[0])


def test_the_readme_says_what_is_configured_here() -> None:
    assert "`server gateway 10.0.0.6:8010 send-proxy-v2-ssl`" in README
    assert "`write-proxy-v2 = on`" in README
    assert "`proxy_protocol on;` beside `proxy_pass`" in README
