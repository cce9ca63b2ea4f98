"""What RFC 9110 and 9112 decide, or leave to us, row by row, between raw octets on both sides."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from tests.raw_http import RawServer, read_message, reset
from tests.running_gateway import RunningGateway, running_gateway
from tests.waiting import until
from tests.web.decided_answers import ANSWERS, CLOSE, DecidedAnswer
from tests.web.decided_requests import LAST, REQUESTS, DecidedRequest
from tests.web.raw_cases import Site
from tests.web.whole_answers import END, RESET, Received, is_ours, read_answers, wired

in_one_loop = pytest.mark.asyncio(loop_scope="module")
SOON = 3
SOUND = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsound"


@dataclass
class Scripted:
    """A homeserver whose next answer is `answer`, and then the end as `then` says; all others are sound."""

    answer: bytes = b""
    then: str = ""
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_message(reader)
            answer, self.answer = self.answer or SOUND, b""
            writer.write(answer)
            if answer is not SOUND and self.then:
                await self.may_end.wait()
                if self.then == RESET:
                    reset(writer)
                return


@dataclass(frozen=True)
class AnswerSite:
    gateway: RunningGateway
    homeserver: RawServer
    scripted: Scripted


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def answer_site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AnswerSite]:
    scripted = Scripted()
    async with RawServer(scripted).running() as homeserver:
        async with running_gateway(tmp_path_factory.mktemp("answers"), homeserver.url) as gateway:
            yield AnswerSite(gateway, homeserver, scripted)


@in_one_loop
@pytest.mark.parametrize("case", [case for case in REQUESTS if not case.refused], ids=lambda case: case.name)
async def test_a_request_is_relayed(case: DecidedRequest, site: Site) -> None:
    site.recorder.begin()
    methods = [line.partition(" ")[0] for line, _ in case.arrives] + ["GET"]
    async with wired(site.gateway.port) as client:
        await client.send(case.octets + LAST)
        received = await client.receive(SOON)
    arrived = [message for message in site.recorder.arrived if message.line != "GET /last HTTP/1.1"]
    assert site.recorder.oddities == []
    assert [(message.line, message.body) for message in arrived] == [
        (f"{line} HTTP/1.1", body) for line, body in case.arrives
    ]
    assert all(message.whole for message in arrived)
    answers = read_answers(received, methods)
    # RFC 9112 9.3: HTTP/1.0 ends its connection.
    assert [answer.status for answer in answers] == [200] * (1 if case.name == "HTTP/1.0" else len(methods))


@in_one_loop
@pytest.mark.parametrize("case", [case for case in REQUESTS if case.refused], ids=lambda case: case.name)
async def test_a_request_is_refused(case: DecidedRequest, site: Site) -> None:
    site.recorder.begin()
    async with wired(site.gateway.port) as client:
        await client.send(case.octets + LAST)
        received = await client.receive(SOON)
    assert [message.line for message in site.recorder.arrived if message.whole] == []
    (answer,) = read_answers(received, ["GET"])
    assert answer.status in case.refused
    assert received.ended == END
    assert answer.closes
    is_ours(answer)


async def ask(case: DecidedAnswer, site: AnswerSite) -> Received:
    """Ask for the case's answer on a connection of its own, and return all that comes."""
    scripted = site.scripted
    scripted.answer, scripted.then = case.octets, case.then
    scripted.may_end.clear()
    request = f"{case.method} /asked HTTP/{case.version}\r\nHost: gw.test\r\nConnection: close\r\n\r\n"
    async with wired(site.gateway.port) as client:
        await client.send(request.encode())
        begin = b""
        if case.then:  # and so the client has what the homeserver sent before that ends
            async with asyncio.timeout(SOON):
                begin = await client.receive_until(case.body[-10:])
        scripted.may_end.set()
        received = await client.receive(SOON)
    return Received(begin + received.octets, received.ended)


def check_answer(case: DecidedAnswer, received: Received) -> None:
    (answer,) = read_answers(received, [case.method])
    if case.may_break and not answer.whole:
        assert answer.status == 200
        assert case.body.startswith(answer.body)
        assert received.ended == END
        return
    assert answer.status in case.status
    assert received.ended == case.ended
    if answer.status == 502:
        is_ours(answer)
        return
    assert (answer.interim, answer.framing, answer.whole) == (case.interim, case.framing, case.whole)
    assert answer.body == case.body
    assert not case.without or answer.values(case.without) == []


@in_one_loop
@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.name)
async def test_an_answer_is_read_as_the_table_says(case: DecidedAnswer, answer_site: AnswerSite) -> None:
    before = answer_site.homeserver.connections
    await warm(answer_site)
    received = await ask(case, answer_site)
    check_answer(case, received)
    await warm(answer_site)
    assert answer_site.homeserver.connections - before <= (1 if case.reused else 2)
    await until(lambda: answer_site.homeserver.open <= 1)


@in_one_loop
@pytest.mark.parametrize("case", [case for case in ANSWERS if not case.reused], ids=lambda case: case.name)
async def test_the_next_request_does_not_use_the_same_connection(
    case: DecidedAnswer, answer_site: AnswerSite
) -> None:
    await ask(case, answer_site)
    before = answer_site.homeserver.connections
    await warm(answer_site)
    assert answer_site.homeserver.connections == before + 1


async def warm(site: AnswerSite) -> None:
    """Ask for an answer that is sound; the next one comes on the same connection."""
    async with wired(site.gateway.port) as client:
        await client.send(LAST)
        (answer,) = read_answers(await client.receive(SOON), ["GET"])
    assert (answer.status, answer.body) == (200, b"sound")


def test_rows_have_names_of_their_own_and_rules() -> None:
    for rows in (REQUESTS, ANSWERS):
        assert len({row.name for row in rows}) == len(rows)
        assert all(row.rule.startswith("RFC 911") for row in rows)


def test_a_row_that_waits_for_the_close_says_how_it_comes() -> None:
    assert {row.then for row in ANSWERS} == {"", CLOSE, RESET}
