"""The doctor before homeservers that are ill in one way each: which part fails, and what mends it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from sqlalchemy import make_url

from gateway.core.jwk_sets import SetRules
from gateway.core.personal_sessions import PersonalSession
from gateway.doctor import Finding
from gateway.doctor.database import examine_database
from gateway.doctor.homeserver import examine_homeserver
from gateway.doctor.key_sets import examine_key_set
from gateway.issuer_keys import KeySource
from gateway.storage.database import DatabaseSettings, open_database
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.mas import MasAdmin
from gateway.upstream.pool import Pool, PoolSettings
from gateway.upstream.sessions import SessionMethod, SessionSettings
from gateway.upstream.sessions.jwt import JwtSessions
from gateway.upstream.sessions.mas import MasSessions
from tests.fake_homeserver import JWT_SECRET, FakeHomeserver, Fault, Seen, User, running_homeserver
from tests.fake_issuer import JWKS, new_key, public, running_issuer
from tests.fake_mas import CLIENT_SECRET, FakeMas, running_mas
from tests.flavours import CONDUIT, CONTINUWUITY, DENDRITE, FLAVOURS, PALPO, SYNAPSE, TUWUNEL, Flavour
from tests.postgres_server import LOCKED, PASSWORD, PostgresServer
from tests.running_gateway import AS_TOKEN, SERVER_NAME

WHOAMI = "/_matrix/client/v3/account/whoami"


async def examine(
    url: str,
    *,
    server_name: str = SERVER_NAME,
    as_token: str = AS_TOKEN,
    now: Callable[[], float] = time.time,
    denies: bool = False,
) -> dict[str, Finding]:
    """The findings by name."""
    pool = Pool(PoolSettings(url=url, connect_timeout=1), call_timeout=1)
    try:
        found = await examine_homeserver(Homeserver(pool, server_name, as_token), 60, now, denies=denies)
    finally:
        await pool.close()
    assert len({finding.name for finding in found}) == len(found)
    assert all(bool(finding.mend) is (finding.verdict != "pass") for finding in found)
    return {finding.name: finding for finding in found}


def verdicts(found: dict[str, Finding], verdict: str) -> set[str]:
    return {name for name, finding in found.items() if finding.verdict == verdict}


# Those that a login by nobody's name leaves as they were.
PROBED = [SYNAPSE, DENDRITE, TUWUNEL, CONTINUWUITY, PALPO]


@pytest.mark.parametrize("flavour", PROBED, ids=lambda flavour: flavour.name)
async def test_a_healthy_homeserver_passes_everything(flavour: Flavour) -> None:
    async with running_homeserver(flavour) as homeserver:
        found = await examine(homeserver.url)

    assert not verdicts(found, "fail")
    assert [name for name, finding in found.items() if finding.verdict == "pass"] == [
        "reachable",
        "clock",
        "software",
        "server name",
        "paths",
        "as_token",
        "appservice login",
        "namespace",
    ]


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_no_question_makes_an_account_or_a_session(flavour: Flavour) -> None:
    async with running_homeserver(flavour) as homeserver:
        await examine(homeserver.url)

        assert (homeserver.users, homeserver.sessions) == ({}, {})


async def test_where_a_question_might_make_an_account_the_namespace_is_left_to_the_operator() -> None:
    async with running_homeserver(CONDUIT) as homeserver:
        found = await examine(homeserver.url)

    assert verdicts(found, "warn") == {"namespace", "bridges"}
    assert found["namespace"].says == "can't be asked of Conduit without making an account"


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_where_users_of_bridges_look_like_anybody_they_have_to_be_named(flavour: Flavour) -> None:
    async with running_homeserver(flavour) as homeserver:
        unnamed = (await examine(homeserver.url)).get("bridges")
        named = (await examine(homeserver.url, denies=True)).get("bridges")

    if flavour in {SYNAPSE, DENDRITE}:
        assert unnamed is named is None
        return
    says = f"users of bridges whom {flavour.name} has already look like anybody, and log in"
    mend = 'put the names of each bridge into [identity] deny, such as "^telegram_" and "^telegrambot$"'
    assert unnamed == Finding("bridges", "warn", says, mend)
    assert named == Finding("bridges", "pass", f"{says}, but for the names in [identity] deny")


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_where_nothing_tells_who_is_deactivated_the_operator_is_told(flavour: Flavour) -> None:
    async with running_homeserver(flavour) as homeserver:
        found = (await examine(homeserver.url)).get("deactivated")

    assert (found is not None) is (flavour is DENDRITE)
    assert found is None or "users lock NAME` whenever you deactivate somebody" in found.mend


class Limited(FakeHomeserver):
    """Has taken as many logins of our address as it takes."""

    def _answer(self, name: str, seen: Seen) -> web.Response:
        if (seen.method, name) == ("POST", "login"):
            return web.json_response({"errcode": "M_LIMIT_EXCEEDED"}, status=429)
        return super()._answer(name, seen)


@pytest.mark.parametrize("flavour", PROBED, ids=lambda flavour: flavour.name)
async def test_limits_that_hold_the_gateway_back_are_a_warning_and_no_wrong_as_token(flavour: Flavour) -> None:
    homeserver = Limited(flavour)
    await homeserver.start()
    try:
        found = await examine(homeserver.url)
    finally:
        await homeserver.stop()

    assert verdicts(found, "fail") == set()
    assert found["namespace"].says == "can't be seen: 429 M_LIMIT_EXCEEDED to a login"
    assert "its limits hold the gateway back" in found["namespace"].mend
    if flavour in {DENDRITE, PALPO}:
        assert (found["as_token"].verdict, found["as_token"].says) == ("warn", found["namespace"].says)


async def test_a_homeserver_that_is_not_there_is_one_failure(homeserver: FakeHomeserver) -> None:
    await homeserver.stop()

    found = await examine(homeserver.url)

    assert list(found) == ["reachable"]
    assert found["reachable"].verdict == "fail"


async def test_a_homeserver_that_hangs_is_one_failure(homeserver: FakeHomeserver) -> None:
    homeserver.faults["versions"] = Fault(breaks="head")

    assert list(await examine(homeserver.url)) == ["reachable"]


async def test_a_wrong_as_token_fails_and_the_server_name_is_seen_all_the_same(homeserver: FakeHomeserver) -> None:
    homeserver.answers["/_matrix/key/v2/server"] = lambda: web.json_response({"server_name": SERVER_NAME})

    found = await examine(homeserver.url, as_token="wrong")

    assert verdicts(found, "fail") == {"as_token"}
    assert "401 M_UNKNOWN_TOKEN" in found["as_token"].says
    assert found["server name"].verdict == "pass"


@pytest.mark.parametrize("flavour", PROBED, ids=lambda flavour: flavour.name)
@pytest.mark.parametrize("name", [SERVER_NAME, "example.com"])
async def test_the_server_name_is_seen_where_federation_is_off(flavour: Flavour, name: str) -> None:
    async with running_homeserver(flavour) as homeserver:
        homeserver.answers["/_matrix/key/v2/server"] = lambda: web.Response(status=404)
        found = await examine(homeserver.url, server_name=name)

        assert (found["server name"].verdict == "pass") is (name == SERVER_NAME)
        assert (homeserver.users, homeserver.sessions) == ({}, {})


@pytest.mark.parametrize("flavour", PROBED, ids=lambda flavour: flavour.name)
async def test_the_token_of_a_users_device_is_no_as_token(flavour: Flavour) -> None:
    async with running_homeserver(flavour) as homeserver:
        homeserver.users["alice"] = User("A")
        homeserver.sessions["syt_alice"], homeserver.devices["syt_alice"] = f"@alice:{SERVER_NAME}", "PHONE"

        found = await examine(homeserver.url, as_token="syt_alice")

    assert verdicts(found, "fail") == {"as_token"}
    assert found["as_token"].says.startswith("it is the access token of a device of @alice:example.org")


async def test_a_wrong_server_name_fails_and_the_right_one_is_named(homeserver: FakeHomeserver) -> None:
    found = await examine(homeserver.url, server_name="example.com")

    assert found["server name"].says == "the homeserver is example.org, and server_name is example.com"
    assert 'server_name = "example.org"' in found["server name"].mend


async def test_a_homeserver_without_a_login_of_its_own_fails(homeserver: FakeHomeserver) -> None:
    homeserver.faults["login"] = Fault(answer=(404, "M_UNRECOGNIZED"))

    found = await examine(homeserver.url)

    assert verdicts(found, "fail") == {"appservice login"}
    assert "Matrix Authentication Service" in found["appservice login"].says


async def test_a_login_that_is_not_listed_is_a_warning(homeserver: FakeHomeserver) -> None:
    homeserver.answers["/_matrix/client/v3/login"] = lambda: web.json_response({"flows": []})

    assert (await examine(homeserver.url))["appservice login"].verdict == "warn"


@pytest.mark.parametrize("name", ["org.matrix.login.jwt", "m.login.jwt"])
async def test_a_jwt_login_of_the_homeservers_own_is_a_warning(name: str, homeserver: FakeHomeserver) -> None:
    flows = {"flows": [{"type": "m.login.application_service"}, {"type": name}]}
    homeserver.answers["/_matrix/client/v3/login"] = lambda: web.json_response(flows)

    found = await examine(homeserver.url)

    assert found["jwt login"].verdict == "warn"
    assert found["jwt login"].says.startswith(f"the homeserver takes {name} itself: past the gateway, ")
    assert "take jwt_config out of Synapse's homeserver.yaml" in found["jwt login"].mend


@pytest.mark.parametrize("flavour", [SYNAPSE, TUWUNEL, PALPO], ids=lambda flavour: flavour.name)
async def test_a_jwt_login_is_seen_also_where_it_is_not_listed(flavour: Flavour) -> None:
    async with running_homeserver(flavour) as homeserver:
        without = await examine(homeserver.url)
        homeserver.jwt_claims = {}
        found = await examine(homeserver.url)
        assert (homeserver.users, homeserver.sessions) == ({}, {})

    assert "jwt login" not in without
    assert found["jwt login"].says.startswith("the homeserver takes org.matrix.login.jwt itself: past the gateway, ")
    assert "[jwt] out of palpo.toml" in found["jwt login"].mend


async def test_a_jwt_login_is_warned_of_behind_mas_too(homeserver: FakeHomeserver) -> None:
    homeserver.jwt_claims = {}
    async with running_mas() as mas, mas_sessions(mas) as sessions:
        found = await examine_method(homeserver, sessions)

    assert found["jwt login"].verdict == "warn"


async def test_a_homeserver_that_hides_its_software_is_a_warning(homeserver: FakeHomeserver) -> None:
    homeserver.answers["/_matrix/federation/v1/version"] = lambda: web.Response(status=404)

    assert verdicts(await examine(homeserver.url), "warn") == {"software", "namespace", "bridges"}


@pytest.mark.parametrize("flavour", [DENDRITE, PALPO], ids=lambda flavour: flavour.name)
async def test_a_set_up_that_is_right_does_not_fail_where_the_software_is_hidden(flavour: Flavour) -> None:
    async with running_homeserver(flavour) as homeserver:
        homeserver.answers[flavour.told_by] = lambda: web.json_response({"versions": ["v1.11"]})
        found = await examine(homeserver.url)

    assert verdicts(found, "fail") == set()
    assert verdicts(found, "warn") == {"software", "as_token", "namespace", "bridges"}
    assert found["bridges"].says.startswith("users of bridges whom the homeserver has already look like anybody")
    assert found["as_token"].says.startswith(f"it is that of @_login_gateway:{SERVER_NAME}, who has a device: ")


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(0, "pass"), (20, "warn"), (-20, "warn"), (90, "fail"), (-90, "fail")]
)
async def test_clocks_that_differ_warn_and_beyond_the_leeway_fail(
    homeserver: FakeHomeserver, ahead: int, verdict: str
) -> None:
    found = await examine(homeserver.url, now=lambda: time.time() + ahead)

    assert found["clock"].verdict == verdict


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Nov 2026 99:99:99 GMT"])
async def test_a_date_that_is_none_is_a_warning(homeserver: FakeHomeserver, date: str) -> None:
    homeserver.answers["/_matrix/client/versions"] = lambda: web.json_response(
        {"versions": ["v1.11"]}, headers={"Date": date}
    )

    assert (await examine(homeserver.url))["clock"].verdict == "warn"


@asynccontextmanager
async def answering(answer: Callable[[web.BaseRequest], web.Response]) -> AsyncIterator[str]:
    """Run a server that answers everything so."""

    async def handle(request: web.BaseRequest) -> web.Response:
        return answer(request)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "<html>"), (200, "{}"), (200, '{"versions": 1}'), (200, "[" * 2000), (404, ""), (302, ""), (500, "oops")],
)
async def test_a_server_that_is_no_homeserver_is_one_failure(status: int, body: str) -> None:
    async with answering(lambda _: web.Response(status=status, text=body)) as url:
        found = await examine(url)

    assert list(found) == ["reachable"]
    assert "is no homeserver" in found["reachable"].says


@pytest.mark.parametrize("body", ["{}", "[]", "null", '{"server": 1, "flows": {}, "user_id": 1, "server_name": []}'])
async def test_answers_of_any_shape_are_judged(body: str) -> None:
    def answer(request: web.BaseRequest) -> web.Response:
        text = '{"versions": []}' if request.path.endswith("/versions") else body
        return web.Response(text=text, content_type="application/json")

    async with answering(answer) as url:
        found = await examine(url)

    assert "fail" in {finding.verdict for finding in found.values()}


async def test_a_database_that_is_ready_passes_and_stays_as_it_is(tmp_path: Path) -> None:
    settings = DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")
    async with open_database(settings):
        pass
    before = (tmp_path / "gateway.db").read_bytes()

    assert (await examine_database(settings)).verdict == "pass"
    assert (tmp_path / "gateway.db").read_bytes() == before


async def test_a_server_that_can_only_be_read_fails(postgres: PostgresServer) -> None:
    settings = DatabaseSettings(url=postgres.new_database())
    assert (await examine_database(settings)).verdict == "pass"
    name = make_url(settings.url).database
    postgres.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    finding = await examine_database(settings)

    assert (finding.verdict, "read-only transaction" in finding.says) == ("fail", True)
    assert "primary" in finding.mend


@pytest.mark.parametrize("missing", ["INSERT", "UPDATE", "DELETE"])
async def test_a_user_who_may_not_write_each_table_fails(missing: str, postgres: PostgresServer) -> None:
    settings = DatabaseSettings(url=postgres.new_database().replace("postgres@", f"{LOCKED}@"))
    settings = settings.completed({}, PASSWORD)
    name = str(make_url(settings.url).database)
    postgres.sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {LOCKED}", name)
    assert (await examine_database(settings)).verdict == "pass"
    postgres.sql(f"REVOKE {missing} ON logins FROM {LOCKED}", name)

    finding = await examine_database(settings)

    assert (finding.verdict, finding.says) == (
        "fail",
        "the database can't be written: permission denied for table logins",
    )
    assert PASSWORD not in finding.says + finding.mend


async def test_a_database_that_serve_will_make_is_a_warning_and_is_not_made(tmp_path: Path) -> None:
    finding = await examine_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db"))

    assert (finding.verdict, list(tmp_path.iterdir())) == ("warn", [])
    assert "it is not there yet; `serve` and `database upgrade` make it" in finding.says
    assert finding.mend == "nothing to do: `serve` does it at its start"


async def test_a_database_of_another_program_fails(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_text("not a database, but a text that is long enough to be looked at" * 20)

    finding = await examine_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db"))

    assert finding.verdict == "fail"


def source_of(url: str, issuer: str | None = None) -> KeySource:
    return KeySource(url, None if issuer is None else (issuer,), SetRules(("ES256",)), 3600)


async def test_a_key_set_that_can_be_fetched_passes() -> None:
    async with running_issuer() as issuer:
        straight = await examine_key_set(source_of(issuer.jwks_url), "")
        found = await examine_key_set(source_of(issuer.discovery_url, issuer.url), issuer.url)

    assert straight == Finding("key set", "pass", "a key that can verify")
    assert found == Finding(f"key set of {issuer.url}", "pass", "a key that can verify")


async def test_a_key_set_that_nobody_serves_fails() -> None:
    async with running_issuer() as issuer:
        url = issuer.jwks_url
    found = await examine_key_set(source_of(url), "")

    assert found.verdict == "fail"
    assert found.mend == f"see that {url} answers here, and what the issuer publishes there"


async def test_a_discovery_document_of_another_issuer_fails() -> None:
    async with running_issuer() as issuer:
        found = await examine_key_set(source_of(issuer.discovery_url, "https://other.example"), "x")

    assert (found.name, found.verdict) == ("key set of x", "fail")


async def test_keys_that_are_skipped_warn_and_a_private_one_fails() -> None:
    async with running_issuer() as issuer:
        second = public(new_key("second"), use="enc")
        issuer.answers[JWKS] = lambda: web.json_response({"keys": [public(issuer.key), second]})
        skipped = await examine_key_set(source_of(issuer.jwks_url), "")
        issuer.answers[JWKS] = lambda: web.json_response(
            {"keys": [public(issuer.key), issuer.key.as_dict(private=True)]}
        )
        exposed = await examine_key_set(source_of(issuer.jwks_url), "")

    assert skipped.verdict == "warn"
    assert skipped.says == "a key that can verify; skipped are key 2 ('second'): its 'use' is not \"sig\""
    assert exposed.verdict == "fail"
    assert "private key" in exposed.says


JWT = SessionSettings(method="jwt")


async def examine_method(homeserver: FakeHomeserver, method: SessionMethod, as_token: str = "") -> dict[str, Finding]:
    pool = Pool(PoolSettings(url=homeserver.url, connect_timeout=1), call_timeout=1)
    try:
        found = await examine_homeserver(Homeserver(pool, SERVER_NAME, as_token), 60, time.time, method)
    finally:
        await pool.close()
    return {finding.name: finding for finding in found}


@asynccontextmanager
async def jwt_sessions(homeserver: FakeHomeserver, as_token: str = "") -> AsyncIterator[JwtSessions]:
    pool = Pool(PoolSettings(url=homeserver.url, connect_timeout=1), call_timeout=1)
    yield JwtSessions(Homeserver(pool, SERVER_NAME, as_token), JWT, JWT_SECRET, time.time)
    await pool.close()


@pytest.mark.parametrize("as_token", ["", AS_TOKEN])
async def test_jwt_is_looked_at_in_place_of_the_application_service(
    as_token: str, homeserver: FakeHomeserver
) -> None:
    homeserver.jwt_claims = {}
    async with jwt_sessions(homeserver, as_token) as sessions:
        found = await examine_method(homeserver, sessions, as_token)

    parts = ["reachable", "clock", "software", "server name", "paths", *(["as_token"] if as_token else [])]
    assert list(found) == [*parts, "session method"]
    assert found["session method"].verdict == "pass"
    assert (homeserver.users, homeserver.sessions) == ({}, {})


async def test_a_homeserver_without_jwt_login_fails_where_that_is_the_method(homeserver: FakeHomeserver) -> None:
    async with jwt_sessions(homeserver) as sessions:
        found = await examine_method(homeserver, sessions)

    assert found["session method"].verdict == "fail"
    assert "org.matrix.login.jwt is not among the logins" in found["session method"].says


@asynccontextmanager
async def mas_sessions(mas: FakeMas) -> AsyncIterator[MasSessions]:
    async def keep(_: PersonalSession, _token: str, _name: str | None) -> None:
        raise AssertionError

    admin = MasAdmin(SessionSettings.model_validate(mas.settings), CLIENT_SECRET, SERVER_NAME)
    pool = Pool(PoolSettings(url=mas.homeserver.url, connect_timeout=1), call_timeout=1)
    yield MasSessions(admin, Homeserver(pool, SERVER_NAME, ""), 0, keep, time.time)
    await pool.close()
    await admin.close()


@pytest.mark.parametrize("stopped", [False, True])
async def test_mas_is_asked_itself(*, stopped: bool) -> None:
    async with running_mas() as mas, mas_sessions(mas) as sessions:
        if stopped:
            await mas.stop()
        found = await examine_method(mas.homeserver, sessions)

    assert found["session method"].verdict == ("fail" if stopped else "pass")
    assert "appservice login" not in found


async def test_an_address_that_does_not_lead_to_the_login_of_mas_fails() -> None:
    async with running_mas() as mas, mas_sessions(mas) as sessions:
        mas.homeserver.compat_flows = None
        found = await examine_method(mas.homeserver, sessions)

    assert verdicts(found, "fail") == {"session method"}
    assert "an address that leads /login, /logout and /refresh to Matrix" in found["session method"].says


async def test_mas_that_is_down_is_not_taken_for_the_homeserver() -> None:
    async with running_mas() as mas, mas_sessions(mas) as sessions:
        await mas.stop()
        mas.homeserver.answers["/_matrix/client/v3/login"] = lambda: web.Response(status=502)
        found = await examine_method(mas.homeserver, sessions)

    assert verdicts(found, "fail") == {"session method"}
    assert "no connection to Matrix Authentication Service" in found["session method"].says


async def test_the_login_of_mas_fails_where_an_application_service_is_to_log_in() -> None:
    async with running_mas() as mas:
        found = await examine(mas.homeserver.url)

    assert (found["appservice login"].verdict, "mas" in found["appservice login"].mend) == ("fail", True)
