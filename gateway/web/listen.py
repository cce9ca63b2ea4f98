"""The addresses of `listen` and `admin_listen`: how they are written, and what is spoken there."""

import re
from dataclasses import dataclass
from typing import TypeAlias

Place: TypeAlias = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: a host and port, or a unix socket; and what comes before HTTP there.

    `proxied`: the header of the PROXY protocol, with which each connection begins. `edge_tls`: who is brought by a
    header that does not tell spoke TLS with the edge. `tls`: TLS, behind that header.
    """

    host: str = ""
    port: int = 0
    unix_path: str = ""
    tls: bool = False
    proxied: bool = False
    edge_tls: bool = False

    def __str__(self) -> str:
        header = ("proxy+https:" if self.edge_tls else "proxy:") if self.proxied else ""
        return f"{header}{'tls:' * self.tls}{self._address}"

    @property
    def _address(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def place(self) -> Place:
        """What only one can have, whatever is spoken there."""
        return self.host, self.port, self.unix_path

    @property
    def is_any_port(self) -> bool:
        """Whether the system chooses the port, each time another one."""
        return not (self.port or self.unix_path)


def parse_listen(text: str) -> Listen:
    """Read `host:port`, `[::1]:port` or `unix:/path`, behind what is spoken there; raises ValueError.

    That is `proxy:` or `proxy+https:`, `tls:`, or both `proxy:` and `tls:`.
    """
    header, _, behind = text.partition(":") if text.startswith(("proxy:", "proxy+https:")) else ("", "", text)
    proxied, edge_tls = bool(header), header == "proxy+https"
    tls, address = behind.startswith("tls:"), behind.removeprefix("tls:")
    if edge_tls and tls:
        raise ValueError("proxy+https: says that the edge ended TLS; where the gateway speaks it, write proxy:tls:")
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("a unix socket needs an absolute path, as in unix:/run/gateway.sock")
        if tls:
            raise ValueError("a unix socket is for this machine, and takes no tls:")
        return Listen(unix_path=path, proxied=proxied, edge_tls=edge_tls)
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})", address)
    if match is None:
        order = "; proxy: comes first, then tls:" if address.startswith(("tls:", "proxy:", "proxy+")) else ""
        raise ValueError(f"write HOST:PORT, [::1]:PORT or unix:/PATH{order}")
    if int(match[3]) > 65535:  # RFC 9293 3.1
        raise ValueError(f"there is no port {match[3]}; use 1 to 65535, or 0 for any free one")
    return Listen(host=match[1] or match[2], port=int(match[3]), tls=tls, proxied=proxied, edge_tls=edge_tls)
