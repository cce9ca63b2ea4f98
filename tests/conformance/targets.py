"""A homeserver with a way to its sessions, as the scenarios of logins see it: fakes of every kind, real Synapse."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import pytest

from gateway.upstream.mas import MasAdmin
from gateway.upstream.pool import Reply
from gateway.upstream.sessions import SessionSettings
from tests.conformance.anybodys import AnybodysHomeserver
from tests.fake_homeserver import JWT_SECRET, FakeHomeserver, User, running_homeserver
from tests.fake_mas import FakeMas, running_mas
from tests.flavours import BEHIND_MAS, Flavour
from tests.real_dendrite import RealDendrite
from tests.real_synapse import BRIDGE_AS_TOKEN, JWT_SESSION, NARROW_AS_TOKEN, PASSWORD, RealSynapse
from tests.running_gateway import AS_TOKEN, SERVER_NAME

NOBODYS = "00" * 32


class Target(Protocol):
    """What a scenario does with a homeserver past the gateway, and what it expects of it (`flavour`).

    `session` is the gateway's table for it, `spoiled` one with a wrong secret. `patience`: seconds until a token that
    was ended is not taken any more.
    """

    patience: ClassVar[float]
    flavour: Flavour
    url: str
    session: dict[str, Any]
    spoiled: dict[str, Any]

    async def add(self, localpart: str) -> None: ...

    async def exists(self, localpart: str) -> bool: ...

    async def lock(self, localpart: str) -> None: ...

    async def deactivate(self, localpart: str) -> None: ...

    async def user_of(self, token: str) -> str | None: ...

    def narrow(self) -> dict[str, Any]:
        """Return the gateway's table for a namespace without hyphens, where there is such a thing."""

    async def devices(self, token: str) -> dict[str, str | None]:
        """Return the devices that the user of a session sees, with their names."""

    async def add_ghost(self, localpart: str) -> None:
        """Make a user of the bridge, whose namespace is `bridge_.*` for itself."""

    def stopped(self) -> AbstractAsyncContextManager[None]:
        """Stop the homeserver while the block runs."""

    async def lose(self, localpart: str) -> None:
        """Take an account away, as an older backup of the homeserver does."""


@dataclass
class Fake:
    """A fake homeserver; with `jwt`, by its own JWT login."""

    homeserver: FakeHomeserver
    jwt: bool = False

    patience: ClassVar[float] = 5

    def __post_init__(self) -> None:
        self.flavour, self.url = self.homeserver.flavour, self.homeserver.url
        self.session: dict[str, Any] = {"as_token": AS_TOKEN}
        self.spoiled: dict[str, Any] = {"as_token": NOBODYS}
        if self.jwt:
            self.homeserver.jwt_claims = {}
            self.session = {"method": "jwt", "jwt_secret": JWT_SECRET, "as_token": None}
            self.spoiled = {**self.session, "jwt_secret": NOBODYS}

    async def add(self, localpart: str) -> None:
        self.homeserver.users[localpart] = User(localpart)

    async def exists(self, localpart: str) -> bool:
        return localpart in self.homeserver.users

    async def lock(self, localpart: str) -> None:
        self.homeserver.users[localpart].locked = True

    async def deactivate(self, localpart: str) -> None:
        self.homeserver.users[localpart].deactivated = True

    async def user_of(self, token: str) -> str | None:
        return self.homeserver.sessions.get(token)

    def narrow(self) -> dict[str, Any]:
        self.homeserver.namespace = re.compile(rf"@[a-z0-9]+:{re.escape(SERVER_NAME)}")
        return self.session

    async def devices(self, token: str) -> dict[str, str | None]:
        return self.homeserver.named_devices(token)

    async def add_ghost(self, localpart: str) -> None:
        self.homeserver.reserved = re.compile(r"bridge_.*")
        self.homeserver.users[localpart] = User(localpart)

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        await self.homeserver.stop()
        yield
        await self.homeserver.start()

    async def lose(self, localpart: str) -> None:
        self.homeserver.lose(localpart)


@dataclass
class BehindMas:
    """A homeserver behind Matrix Authentication Service."""

    mas: FakeMas
    flavour: Flavour = BEHIND_MAS

    patience: ClassVar[float] = 5

    def __post_init__(self) -> None:
        self.homeserver = self.mas.homeserver
        self.url, self.session = self.homeserver.url, self.mas.settings
        self.spoiled = {**self.session, "mas_client_secret": NOBODYS}

    async def add(self, localpart: str) -> None:
        self.mas.add(localpart)

    async def exists(self, localpart: str) -> bool:
        return localpart in self.mas.users

    async def lock(self, localpart: str) -> None:
        self.mas.users[localpart].locked = True

    async def deactivate(self, localpart: str) -> None:
        self.mas.users[localpart].deactivated = True

    async def user_of(self, token: str) -> str | None:
        return self.homeserver.sessions.get(token)

    def narrow(self) -> dict[str, Any]:
        raise NotImplementedError

    async def devices(self, token: str) -> dict[str, str | None]:
        return self.homeserver.named_devices(token)

    async def add_ghost(self, localpart: str) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        await self.homeserver.stop()
        await self.mas.stop()
        yield
        await self.mas.start()
        await self.homeserver.start()

    async def lose(self, localpart: str) -> None:
        del self.mas.users[localpart]
        self.homeserver.lose(localpart)


@dataclass
class OfAnybody:
    """A real homeserver, which is asked by Matrix's client API alone: nobody's account can be locked from outside."""

    homeserver: RealSynapse
    session: dict[str, Any]

    patience: ClassVar[float] = 5

    def __post_init__(self) -> None:
        self.flavour, self.url = self.homeserver.flavour, self.homeserver.url
        secret = {"jwt": "jwt_secret", "mas": "mas_client_secret"}.get(self.session.get("method", ""), "as_token")
        self.spoiled = {**self.session, secret: NOBODYS}

    async def add(self, localpart: str) -> None:
        answer = await self.homeserver.register(localpart)
        assert answer.status == 200, answer

    async def exists(self, localpart: str) -> bool:
        return await self.homeserver.exists(localpart)

    async def lock(self, localpart: str) -> None:  # noqa: ARG002 - nobody is the same here
        pytest.skip(f"nobody can lock a user of {self.flavour.name} from outside")

    async def deactivate(self, localpart: str) -> None:
        """Deactivate an account that `add` made, as its user does."""
        identifier = {"type": "m.id.user", "user": localpart}
        proof = {"type": "m.login.password", "identifier": identifier, "user": localpart, "password": PASSWORD}
        call = self.homeserver.call
        token = (await call("POST", "/_matrix/client/v3/login", body=proof)).body["access_token"]
        target = "/_matrix/client/v3/account/deactivate"
        asked = await call("POST", target, token, {})
        body = {"auth": {**proof, "session": asked.body.get("session")}, "erase": False}
        answer = await call("POST", target, token, body)
        assert answer.status == 200, answer

    async def user_of(self, token: str) -> str | None:
        user_id: str | None = (await self.homeserver.whoami(token)).body.get("user_id")
        return user_id

    def narrow(self) -> dict[str, Any]:
        return {"as_token": NARROW_AS_TOKEN}

    async def devices(self, token: str) -> dict[str, str | None]:
        answer = await self.homeserver.call("GET", "/_matrix/client/v3/devices", token)
        assert answer.status == 200, answer
        return {device["device_id"]: device.get("display_name") for device in answer.body["devices"]}

    async def add_ghost(self, localpart: str) -> None:
        answer = await self.homeserver.register(localpart, BRIDGE_AS_TOKEN)
        assert answer.status == 200, answer

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        with self.homeserver.stopped():
            yield

    async def lose(self, localpart: str) -> None:
        await self.homeserver.lose(localpart)


@dataclass
class OfSynapse(OfAnybody):
    """A real Synapse with an administrator."""

    async def lock(self, localpart: str) -> None:
        await self.homeserver.lock(self.homeserver.user_id(localpart))

    async def deactivate(self, localpart: str) -> None:
        await self.homeserver.deactivate(self.homeserver.user_id(localpart))


@dataclass
class OfDendrite(OfAnybody):
    """A real Dendrite, whose users may have passwords."""

    homeserver: RealDendrite

    async def add(self, localpart: str) -> None:
        await self.homeserver.make_user(localpart, PASSWORD)

    async def lock(self, localpart: str) -> None:
        """Dendrite has no such thing, and its flavour says so."""


@dataclass
class OfAnybodyBehindMas(OfAnybody):
    """A real homeserver behind Matrix Authentication Service, whose admin API does what is done past us."""

    patience: ClassVar[float] = 150  # Synapse keeps the service's answers for two minutes

    async def _admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        settings = SessionSettings.model_validate(self.session)
        admin = MasAdmin(settings, self.session["mas_client_secret"], SERVER_NAME)
        try:
            return await admin.call(method, path, body)
        finally:
            await admin.close()

    async def _id(self, localpart: str) -> str:
        user_id: str = (await self._admin("GET", f"users/by-username/{localpart}")).json()["data"]["id"]
        return user_id

    async def add(self, localpart: str) -> None:
        assert (await self._admin("POST", "users", {"username": localpart})).status == 201

    async def exists(self, localpart: str) -> bool:
        return (await self._admin("GET", f"users/by-username/{localpart}")).status == 200

    async def lock(self, localpart: str) -> None:
        assert (await self._admin("POST", f"users/{await self._id(localpart)}/lock")).status == 200

    async def deactivate(self, localpart: str) -> None:
        assert (await self._admin("POST", f"users/{await self._id(localpart)}/deactivate", {})).status == 200


@asynccontextmanager
async def target_of(kind: Flavour | RealSynapse, *, jwt: bool) -> AsyncIterator[Target]:
    """Run what is to be run of a kind: a fake one, for each test anew."""
    if isinstance(kind, AnybodysHomeserver):
        yield (OfAnybodyBehindMas if kind.flavour is BEHIND_MAS else OfAnybody)(kind, kind.session)
    elif isinstance(kind, RealDendrite):
        yield OfDendrite(kind, {"as_token": kind.as_token})
    elif isinstance(kind, RealSynapse):
        yield OfSynapse(kind, JWT_SESSION if jwt else {"as_token": kind.as_token})
    elif kind is BEHIND_MAS:
        async with running_mas() as mas:
            yield BehindMas(mas)
    else:
        async with running_homeserver(kind) as homeserver:
            yield Fake(homeserver, jwt)
