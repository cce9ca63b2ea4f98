"""The id of a request: believed from trusted proxies, made for all others, told where it is asked for."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiMapping

from gateway.core.headers import Hop
from gateway.web.request_ids import RequestIds
from tests.fake_homeserver import FakeHomeserver
from tests.running_gateway import LOGIN, RunningGateway, mint, running_gateway

EDGE = Hop("127.0.0.1", trusted=True)
STRANGER = Hop("203.0.113.7", trusted=False)
MADE = re.compile(r"[0-9a-f]{12}-[0-9a-f]+")
GOOD = ["7c1e0d9a", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", "1-67891233-abcdef012345678912345678", "a" * 128]
BAD = ["", "a" * 129, "a b", 'a"b', "a\\b", "a\tb", "é", "a;b", "{}"]


def said(*ids: str) -> MultiMapping[str]:
    """The fields of a request that says these ids."""
    return CIMultiDict([("X-Request-Id", value) for value in ids])


@pytest.mark.parametrize("value", GOOD)
def test_a_trusted_proxy_is_believed(value: str) -> None:
    assert RequestIds().of(said(value), EDGE) == value


@pytest.mark.parametrize("value", GOOD)
def test_nobody_else_is(value: str) -> None:
    assert MADE.fullmatch(RequestIds().of(said(value), STRANGER))


@pytest.mark.parametrize("value", BAD)
def test_what_could_be_more_than_an_id_is_replaced(value: str) -> None:
    assert MADE.fullmatch(RequestIds().of(said(value), EDGE))


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=300))
def test_any_value_gives_an_id_of_plain_characters(value: str) -> None:
    made = RequestIds().of(said(value), EDGE)

    assert re.fullmatch(r"[A-Za-z0-9._~:/+=@-]{1,128}", made)


def test_two_values_are_none() -> None:
    assert MADE.fullmatch(RequestIds().of(said("one", "two"), EDGE))


def test_no_two_requests_get_the_same_id_nor_those_of_two_gateways() -> None:
    ids = RequestIds()

    assert len({ids.of(said(), EDGE), ids.of(said(), EDGE), RequestIds().of(said(), EDGE)}) == 3


def ids_of_lines(gateway: RunningGateway, event: str) -> list[str]:
    return re.findall(rf"{event}\b.*request_id=(\S+)", gateway.log)


async def test_a_login_is_logged_with_its_id(gateway: RunningGateway) -> None:
    body = {"type": "org.matrix.login.jwt", "token": mint()}
    answer = await gateway.call("POST", LOGIN, body, X_Request_Id="edge-1")
    await gateway.call("POST", LOGIN, body | {"token": "x"}, X_Request_Id="edge-2")

    assert ids_of_lines(gateway, "login") == ["edge-1"]
    assert ids_of_lines(gateway, "login_refused") == ["edge-2"]
    assert "X-Request-Id" not in answer.headers


async def test_what_a_client_says_passes_as_it_came_unless_ids_are_forwarded(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    await gateway.call("GET", "/_matrix/client/versions")
    await gateway.call("GET", "/_matrix/client/versions", X_Request_Id="any thing")

    assert [seen.values("x-request-id") for seen in homeserver.seen] == [[], [b"any thing"]]


async def test_ids_are_forwarded_where_it_is_asked_for(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url, server={"forward_request_id": True}) as gateway:
        body = {"type": "org.matrix.login.jwt", "token": mint()}
        await gateway.call("POST", LOGIN, body, X_Request_Id="edge-1")
        answers = [
            await gateway.call("GET", "/_matrix/client/versions", X_Request_Id="edge-2"),
            await gateway.call("GET", "/_matrix/client/versions", X_Request_Id="any thing"),
            await gateway.call("GET", "/_matrix/client/versions"),
        ]

    assert homeserver.to("/login")[0].values("x-request-id") == [b"edge-1"]
    told = [seen.values("x-request-id") for seen in homeserver.to("/versions")]
    assert told[0] == [b"edge-2"]
    assert all(len(values) == 1 and MADE.fullmatch(values[0].decode()) for values in told[1:])
    assert not any("X-Request-Id" in answer.headers for answer in answers)
