"""An issuer of tokens: a real server on a free port that publishes its keys, rotates them, and goes wrong as told.

Rule: what it publishes and what it signs with are two lists, so that every order of a rotation can be played.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey, Key

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/jwks"

Answer = Callable[[], web.StreamResponse]


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]


def new_key(kid: str | None) -> Key:
    """Return a fresh key pair for ES256, the quickest to make."""
    return ECKey.import_key(ec.generate_private_key(ec.SECP256R1()), None if kid is None else {"kid": kid})


def public(key: Key, **members: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), **members}


def sign(key: Key, claims: Mapping[str, Any], algorithm: str = "ES256", **header: Any) -> str:
    """Return a token; a `kid` of None is left out, no `kid` is the key's own."""
    named = {"alg": algorithm, "kid": key.kid, **header}
    kept = {name: value for name, value in named.items() if value is not None}
    return jws.serialize_compact(kept, json.dumps(claims).encode(), key, algorithms=[algorithm])


class FakeIssuer:
    """The issuer's keys and answers, and what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.key = new_key("first")
        self.published = [self.key]
        self.headers: dict[str, str] = {}
        self.metadata: dict[str, Any] = {}
        self.answers: dict[str, Answer] = {}
        self.hold: asyncio.Event | None = None
        self.asked: list[Asked] = []
        self.port = 0
        self._tls = tls
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def jwks_url(self) -> str:
        return self.url + JWKS

    @property
    def discovery_url(self) -> str:
        return self.url + DISCOVERY

    @property
    def fetches(self) -> int:
        """How often the set was asked for."""
        return sum(asked.path == JWKS for asked in self.asked)

    def mint(self, sub: str = "alice", *, key: Key | None = None, **claims: Any) -> str:
        """Return a token of this issuer, signed with its present key or another."""
        now = int(time.time())
        return sign(key or self.key, {"iss": self.url, "sub": sub, "iat": now, "exp": now + 86400, **claims})

    def rotate(self, kid: str, *, keep: bool = True) -> Key:
        """Sign with a new key; `keep` publishes the ones before beside it."""
        self.key = new_key(kid)
        self.published = [*(self.published if keep else []), self.key]
        return self.key

    def jwk_set(self) -> dict[str, Any]:
        return {"keys": [public(key, use="sig", alg="ES256") for key in self.published]}

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self._tls).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(Asked(request.path, request.headers))
        if self.hold is not None:
            await self.hold.wait()
        if request.path in self.answers:
            return self.answers[request.path]()
        if request.path == DISCOVERY:
            own = {"issuer": self.url, "jwks_uri": self.jwks_url}
            return web.json_response({**own, **self.metadata})
        if request.path == JWKS:
            return web.json_response(self.jwk_set(), headers=self.headers)
        return web.Response(status=404)


@asynccontextmanager
async def running_issuer(tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeIssuer]:
    """Run a fake issuer; it may be stopped and started again on its port."""
    issuer = FakeIssuer(tls)
    await issuer.start()
    try:
        yield issuer
    finally:
        await issuer.stop()
