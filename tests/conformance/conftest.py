"""One suite for every kind of homeserver: fakes of them all, real Synapse and Dendrite, or one of your own.

    python -m pytest tests/conformance [--homeserver synapse|dendrite|palpo|tuwunel|...|mas|URL] [--session JSON]

A homeserver of your own has to be a disposable one, named example.org, that knows the registration files which
`python -m tests.conformance.registrations DIRECTORY` writes, and whose limits are off. For one behind Matrix
Authentication Service `--session` is the gateway's table for that.
"""

import asyncio
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.anybodys import AnybodysHomeserver, anybodys_homeserver
from tests.conformance.targets import Target, target_of
from tests.flavours import BEHIND_MAS, FLAVOURS, Flavour
from tests.real_synapse import RealSynapse
from tests.running_gateway import AS_TOKEN, SERVER_NAME, RunningGateway, running_gateway


@dataclass(frozen=True)
class Case:
    """A kind of homeserver, or the fixture that runs one, and whether sessions come from its own JWT login."""

    kind: Flavour | str
    jwt: bool = False

    def __str__(self) -> str:
        if isinstance(self.kind, str):
            name = self.kind
        else:
            name = f"fake {'MAS' if self.kind is BEHIND_MAS else self.kind.name}"
        return f"{name}{' jwt' if self.jwt else ''}"


ANYBODYS = Case("anybodys")
CASES = (
    *map(Case, FLAVOURS),
    *(Case(flavour, jwt=True) for flavour in FLAVOURS if flavour.has_jwt),
    Case(BEHIND_MAS),
    Case("synapse"),
    Case("old_synapse"),
    Case("jwt_synapse", jwt=True),
    Case("dendrite"),
    Case("dendrite_on_postgres"),
    ANYBODYS,
)
BY_APPSERVICE = tuple(case for case in CASES if not case.jwt and case.kind is not BEHIND_MAS)
_OUTCOMES = ("passed", "failed", "error", "skipped")
WITHOUT_JWT = tuple(case for case in CASES if not case.jwt)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the cases that `--homeserver` names: all but somebody's own where it names none."""
    wanted: str = config.getoption("--homeserver")
    url = "://" in wanted
    otherwise = "method" in json.loads(config.getoption("--session"))
    others = [
        item
        for item in items
        if (case := _case_of(item))
        and not (_is_wanted(case, "" if url else wanted, url) and not (otherwise and _needs_appservice(item)))
    ]
    for item in items:
        if case := _case_of(item):
            item.user_properties.append(("target", str(case)))
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a row for each target: how many tests of each part it has passed, and which it has not."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for outcome in _OUTCOMES:
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                part = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_")
                counts[str(value)][part][outcome] += name == "target"
    if not counts:
        return
    parts = sorted({part for found in counts.values() for part in found})
    terminalreporter.section("homeservers: tests passed (skipped)")
    for target, *cells in [
        ("", *parts),
        *((target, *(_cell(found[part]) for part in parts)) for target, found in counts.items()),
    ]:
        terminalreporter.line(target.ljust(22) + "".join(cell.rjust(11) for cell in cells).rstrip())


def _cell(found: Counter[str]) -> str:
    if broken := found["failed"] + found["error"]:
        return f"{broken} FAILED"
    if not found.total():
        return "-"
    return f"{found['passed']} ({found['skipped']})" if found["skipped"] else str(found["passed"])


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


def refusing(target: Target, directory: Path) -> AbstractAsyncContextManager[RunningGateway]:
    """Run a gateway that takes over no account."""
    return before(target, directory, asking(target), identity={"existing_accounts": "refuse"})


def asking(target: Target) -> dict[str, Any]:
    """Return the gateway's table with what it takes to ask for users: beside the homeserver's own JWT login, more."""
    return {**target.session, "as_token": AS_TOKEN} if target.session.get("method") == "jwt" else target.session


def rows(directory: Path) -> list[tuple[str, str]]:
    """Return the accounts of a gateway's database: localpart and state."""
    with closing(sqlite3.connect(directory / "gateway.db")) as database:
        return list(database.execute("SELECT localpart, state FROM accounts"))


def user_id(localpart: str) -> str:
    return f"@{localpart}:{SERVER_NAME}"
