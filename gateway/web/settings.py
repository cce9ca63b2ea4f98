"""The `[server]` table: where the gateway listens, whom it believes, and what a connection may take."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from gateway.http.parser import HeadLimits
from gateway.http.server import ConnectionLimits
from gateway.settings import Table
from gateway.web.listen import parse_listen


def _network(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a network in quotes, as in "127.0.0.0/8"')
    try:
        return ip_network(value)
    except ValueError as error:
        raise ValueError(f"not a network such as 127.0.0.0/8: {error}") from None


class ServerSettings(Table):
    """The `[server]` table: times in seconds, sizes in bytes."""

    listen: list[str] = ["127.0.0.1:8010"]
    admin_listen: str = "127.0.0.1:9010"
    trusted_proxies: list[Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]] = [
        IPv4Network("127.0.0.0/8"),
        IPv6Network("::1/128"),
    ]
    drain_timeout: float = Field(35, ge=0)
    keepalive_timeout: float = Field(75, gt=0)
    head_timeout: float = Field(60, gt=0)
    max_request_line: int = Field(131072, ge=1024, le=2**24)
    max_header_field: int = Field(16384, ge=1024, le=2**24)
    max_header_fields: int = Field(100, ge=10, le=10_000)
    max_header_bytes: int = Field(65536, ge=1024, le=2**24)
    stall_timeout: float = Field(60, gt=0)
    max_connections_per_address: int = Field(0, ge=0, le=10**6)
    max_login_body: int = Field(65536, ge=1024, le=2**24)
    tls_certificate: str | None = None
    tls_private_key: str | None = None
    reuse_port: bool = False
    via: str = ""
    forward_request_id: bool = False

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("there must be at least one address")
        parsed = [parse_listen(entry) for entry in value]
        places = [listen.place for listen in parsed]
        for index, listen in enumerate(parsed):
            if listen.place in places[:index] and not listen.is_any_port:
                raise ValueError(f"{listen} appears twice")
        return value

    @field_validator("via")
    @classmethod
    def _pseudonym(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*", value):  # RFC 9110 7.6.3, 5.6.2
            raise ValueError("must be one word of letters, digits and !#$%&'*+-.^_`|~, such as gateway")
        return value

    @field_validator("admin_listen")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        if value:
            listen = parse_listen(value)
            if listen.tls or listen.proxied:
                raise ValueError("takes no tls: and no proxy:; health is plain and for this machine")
            public = [parse_listen(entry).place for entry in info.data.get("listen", ())]
            if listen.place in public and not listen.is_any_port:
                raise ValueError("is an address of `listen` too; health is never public")
        return value

    @property
    def connection_limits(self) -> ConnectionLimits:
        """What a connection of a client may take."""
        head = HeadLimits(
            request_line=self.max_request_line,
            field=self.max_header_field,
            fields=self.max_header_fields,
            fields_size=self.max_header_bytes,
        )
        return ConnectionLimits(
            head=head,
            head_timeout=self.head_timeout,
            keepalive_timeout=self.keepalive_timeout,
            stall_timeout=self.stall_timeout,
            per_address=self.max_connections_per_address,
        )
