"""One suite for every kind of homeserver: fakes of them all, real Synapse and Dendrite, or one of your own.

    python -m pytest tests/conformance [--homeserver synapse|dendrite|palpo|tuwunel|...|mas|URL] [--session JSON]

A homeserver of your own has to be a disposable one, named example.org, that knows the registration files which
`python -m tests.conformance.registrations DIRECTORY` writes, and whose limits are off. For one behind Matrix
Authentication Service `--session` is the gateway's table for that.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.anybodys import AnybodysHomeserver, anybodys_homeserver
from tests.conformance.targets import Target, target_of
from tests.flavours import BEHIND_MAS, FLAVOURS, Flavour
from tests.real_synapse import RealSynapse
from tests.running_gateway import SERVER_NAME, RunningGateway, running_gateway


@dataclass(frozen=True)
class Case:
    """A kind of homeserver, or the fixture that runs one, and whether sessions come from its own JWT login."""

    kind: Flavour | str
    jwt: bool = False

    def __str__(self) -> str:
        name = self.kind if isinstance(self.kind, str) else self.kind.name
        return f"{'behind MAS' if self.kind is BEHIND_MAS else name}{' jwt' if self.jwt else ''}"


ANYBODYS = Case("anybodys")
CASES = (
    *map(Case, FLAVOURS),
    *(Case(flavour, jwt=True) for flavour in FLAVOURS if flavour.has_jwt),
    Case(BEHIND_MAS),
    Case("synapse"),
    Case("old_synapse"),
    Case("jwt_synapse", jwt=True),
    Case("dendrite"),
    ANYBODYS,
)
BY_APPSERVICE = tuple(case for case in CASES if not case.jwt and case.kind is not BEHIND_MAS)
WITHOUT_JWT = tuple(case for case in CASES if not case.jwt)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the cases that `--homeserver` names: all but somebody's own where it names none."""
    wanted: str = config.getoption("--homeserver")
    url = "://" in wanted
    behind_mas = "mas_url" in config.getoption("--session")
    others = [
        item
        for item in items
        if (case := _case_of(item))
        and not (_is_wanted(case, "" if url else wanted, url) and not (behind_mas and _needs_appservice(item)))
    ]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


def _case_of(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec is not None else None
    return case if isinstance(case, Case) else None


def _needs_appservice(item: pytest.Item) -> bool:
    marks = [mark for mark in item.iter_markers("parametrize") if mark.args[0] == "case"]
    return any(mark.args[1] is BY_APPSERVICE for mark in marks)


def _is_wanted(case: Case, name: str, url: bool) -> bool:  # noqa: FBT001 - two words of one answer
    if url or case is ANYBODYS:
        return url and case is ANYBODYS
    return name.lower() in str(case).lower()


@pytest.fixture(scope="session")
def anybodys(request: pytest.FixtureRequest) -> AnybodysHomeserver:
    """The homeserver that `--homeserver URL` names."""
    session = json.loads(request.config.getoption("--session"))
    return asyncio.run(anybodys_homeserver(request.config.getoption("--homeserver"), session))


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[Flavour | RealSynapse, bool]:
    wanted: Case = request.param
    kind = request.getfixturevalue(wanted.kind) if isinstance(wanted.kind, str) else wanted.kind
    return kind, wanted.jwt


@pytest.fixture
async def target(case: tuple[Flavour | RealSynapse, bool]) -> AsyncIterator[Target]:
    kind, jwt = case
    async with target_of(kind, jwt=jwt) as running:
        yield running


def before(
    target: Target, directory: Path, session: Mapping[str, Any] | None = None, **tables: Mapping[str, Any]
) -> AbstractAsyncContextManager[RunningGateway]:
    """Run a gateway before a homeserver."""
    return running_gateway(directory, target.url, session=session or target.session, **tables)


def user_id(localpart: str) -> str:
    return f"@{localpart}:{SERVER_NAME}"
