"""A homeserver with a way to its sessions, as the scenarios of logins see it: fakes of every kind, real Synapse."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol
from urllib.parse import quote

import pytest

from gateway.upstream.mas import MasAdmin
from gateway.upstream.pool import Reply
from gateway.upstream.sessions import SessionSettings
from tests.conformance.anybodys import AnybodysHomeserver
from tests.fake_homeserver import JWT_SECRET, FakeHomeserver, User, running_homeserver
from tests.fake_mas import FakeMas, running_mas
from tests.flavours import BEHIND_MAS, Flavour
from tests.real_dendrite import RealDendrite
from tests.real_synapse import BRIDGE_AS_TOKEN, JWT_CONFIG, NARROW_AS_TOKEN, RealSynapse
from tests.running_gateway import AS_TOKEN, SERVER_NAME

NOBODYS = "00" * 32
PASSWORD = "a password of 8 or more"


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

    async def devices(self, token: str) -> set[str]:
        """Return the devices that the user of a session sees."""

    async def add_ghost(self, localpart: str) -> None:
        """Make a user of the bridge, whose namespace is `bridge_.*` for itself."""


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

    async def devices(self, token: str) -> set[str]:
        return self.homeserver.devices_of(self.homeserver.sessions[token])

    async def add_ghost(self, localpart: str) -> None:
        self.homeserver.reserved = re.compile(r"bridge_.*")
        self.homeserver.users[localpart] = User(localpart)


@dataclass
class BehindMas:
    """A homeserver behind Matrix Authentication Service."""

    mas: FakeMas
    flavour: Flavour = BEHIND_MAS

    patience: ClassVar[float] = 5

    def __post_init__(self) -> None:
        self.url, self.session = self.mas.homeserver.url, self.mas.settings
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
        return self.mas.homeserver.sessions.get(token)

    def narrow(self) -> dict[str, Any]:
        raise NotImplementedError

    async def devices(self, token: str) -> set[str]:
        return self.mas.homeserver.devices_of(self.mas.homeserver.sessions[token])

    async def add_ghost(self, localpart: str) -> None:
        raise NotImplementedError


@dataclass
class Real:
    """A real Synapse; with `jwt`, by its own JWT login."""

    synapse: RealSynapse
    jwt: bool = False

    patience: ClassVar[float] = 5

    def __post_init__(self) -> None:
        self.flavour, self.url = self.synapse.flavour, self.synapse.url
        self.session: dict[str, Any] = {"as_token": self.synapse.as_token}
        self.spoiled: dict[str, Any] = {"as_token": NOBODYS}
        if self.jwt:
            self.session = {
                "method": "jwt",
                "as_token": None,
                "jwt_secret": JWT_CONFIG["secret"],
                "jwt_issuer": JWT_CONFIG["issuer"],
                "jwt_audience": "the homeserver",
                "jwt_display_name_claim": "name",
            }
            self.spoiled = {**self.session, "jwt_secret": NOBODYS}

    async def add(self, localpart: str) -> None:
        assert (await self.synapse.register(localpart)).status == 200

    async def exists(self, localpart: str) -> bool:
        user_id = quote(self.synapse.user_id(localpart), safe="")
        target = f"/_synapse/admin/v2/users/{user_id}"
        return (await self.synapse.call("GET", target, self.synapse.admin_token)).status == 200

    async def lock(self, localpart: str) -> None:
        await self.synapse.lock(self.synapse.user_id(localpart))

    async def deactivate(self, localpart: str) -> None:
        await self.synapse.deactivate(self.synapse.user_id(localpart))

    async def user_of(self, token: str) -> str | None:
        user_id: str | None = (await self.synapse.whoami(token)).body.get("user_id")
        return user_id

    def narrow(self) -> dict[str, Any]:
        return {"as_token": NARROW_AS_TOKEN}

    async def devices(self, token: str) -> set[str]:
        return await devices_of(self.synapse, token)

    async def add_ghost(self, localpart: str) -> None:
        answer = await self.synapse.register(localpart, BRIDGE_AS_TOKEN)
        assert answer.status == 200, answer


@dataclass
class OfDendrite:
    """A real Dendrite."""

    dendrite: RealDendrite

    patience: ClassVar[float] = 5

    def __post_init__(self) -> None:
        self.flavour, self.url = self.dendrite.flavour, self.dendrite.url
        self.session: dict[str, Any] = {"as_token": self.dendrite.as_token}
        self.spoiled: dict[str, Any] = {"as_token": NOBODYS}

    async def add(self, localpart: str) -> None:
        answer = await self.dendrite.make_user(localpart, PASSWORD)
        assert answer.status == 200, answer

    async def exists(self, localpart: str) -> bool:
        return await self.dendrite.exists(localpart)

    async def lock(self, localpart: str) -> None:
        """Dendrite has no such thing, and its flavour says so."""

    async def deactivate(self, localpart: str) -> None:
        await deactivate_by_password(self.dendrite, localpart)

    async def user_of(self, token: str) -> str | None:
        user_id: str | None = (await self.dendrite.whoami(token)).body.get("user_id")
        return user_id

    def narrow(self) -> dict[str, Any]:
        return {"as_token": NARROW_AS_TOKEN}

    async def devices(self, token: str) -> set[str]:
        return await devices_of(self.dendrite, token)

    async def add_ghost(self, localpart: str) -> None:
        answer = await self.dendrite.register(localpart, BRIDGE_AS_TOKEN)
        assert answer.status == 200, answer


@dataclass
class Anybodys:
    """Somebody's own homeserver, of which the users can't be locked from outside."""

    homeserver: AnybodysHomeserver

    patience: ClassVar[float] = 5

    def __post_init__(self) -> None:
        self.flavour, self.url = self.homeserver.flavour, self.homeserver.url
        self.session = self.homeserver.session
        self.spoiled: dict[str, Any] = {"as_token": NOBODYS}

    async def add(self, localpart: str) -> None:
        answer = await self.homeserver.register(localpart)
        assert answer.status == 200, answer

    async def exists(self, localpart: str) -> bool:
        return await self.homeserver.exists(localpart)

    async def lock(self, localpart: str) -> None:
        pytest.skip(f"{localpart} can't be locked from outside")

    async def deactivate(self, localpart: str) -> None:
        await deactivate_by_password(self.homeserver, localpart)

    async def user_of(self, token: str) -> str | None:
        user_id: str | None = (await self.homeserver.whoami(token)).body.get("user_id")
        return user_id

    def narrow(self) -> dict[str, Any]:
        return {"as_token": NARROW_AS_TOKEN}

    async def devices(self, token: str) -> set[str]:
        return await devices_of(self.homeserver, token)

    async def add_ghost(self, localpart: str) -> None:
        answer = await self.homeserver.register(localpart, BRIDGE_AS_TOKEN)
        assert answer.status == 200, answer


@dataclass
class AnybodysBehindMas(Anybodys):
    """Somebody's own homeserver behind Matrix Authentication Service, whose admin API does what is done past us."""

    patience: ClassVar[float] = 150  # Synapse keeps the service's answers for two minutes

    def __post_init__(self) -> None:
        super().__post_init__()
        self.spoiled = {**self.session, "mas_client_secret": NOBODYS}

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


async def deactivate_by_password(homeserver: RealSynapse, localpart: str) -> None:
    """Deactivate an account that `add` made, as its user does."""
    identifier = {"type": "m.id.user", "user": localpart}
    proof = {"type": "m.login.password", "identifier": identifier, "user": localpart, "password": PASSWORD}
    token = (await homeserver.call("POST", "/_matrix/client/v3/login", body=proof)).body["access_token"]
    target = "/_matrix/client/v3/account/deactivate"
    asked = await homeserver.call("POST", target, token, {})
    body = {"auth": {**proof, "session": asked.body.get("session")}, "erase": False}
    answer = await homeserver.call("POST", target, token, body)
    assert answer.status == 200, answer


async def devices_of(homeserver: RealSynapse, token: str) -> set[str]:
    answer = await homeserver.call("GET", "/_matrix/client/v3/devices", token)
    assert answer.status == 200, answer
    return {device["device_id"] for device in answer.body["devices"]}


@asynccontextmanager
async def target_of(kind: Flavour | RealSynapse, *, jwt: bool) -> AsyncIterator[Target]:
    """Run what is to be run of a kind: a fake one, for each test anew."""
    if isinstance(kind, AnybodysHomeserver):
        yield AnybodysBehindMas(kind) if kind.flavour is BEHIND_MAS else Anybodys(kind)
    elif isinstance(kind, RealDendrite):
        yield OfDendrite(kind)
    elif isinstance(kind, RealSynapse):
        yield Real(kind, jwt)
    elif kind is BEHIND_MAS:
        async with running_mas() as mas:
            yield BehindMas(mas)
    else:
        async with running_homeserver(kind) as homeserver:
            yield Fake(homeserver, jwt)
