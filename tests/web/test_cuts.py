"""Reads may end anywhere: messages cut at arbitrary octets mean what they mean whole, on both sides of the gateway.

The sequences are data: what the client or the homeserver sends, and what must be read of it on the other side.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.raw_http import RawServer, read_message
from tests.running_gateway import RunningGateway, running_gateway
from tests.web.cut_sequences import ANSWERS, REQUESTS, SentAnswer, SentRequest
from tests.web.raw_cases import Arrived, Site, answer
from tests.web.whole_answers import Answer, read_answers, turn, wired

in_one_loop = pytest.mark.asyncio(loop_scope="module")
SOON = 5
# A sequence of more octets is not sent octet by octet.
FEW = 4096
fuzzed = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Places between octets, as they come: small ones, so that heads are cut, and any.
places = st.lists(st.one_of(st.integers(1, 200), st.integers(1, 2**17)), max_size=12)


@dataclass
class Cutting:
    """A handler that reads requests and answers each in turn, cut where `cuts` says; a new test sets both."""

    answers: Sequence[SentAnswer] = ()
    cuts: Sequence[int] = ()
    seen: int = 0
    oddities: list[str] = field(default_factory=list)

    def begin(self, answers: Sequence[SentAnswer], cuts: Sequence[int]) -> None:
        self.answers, self.cuts, self.seen = answers, cuts, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_message(reader)
            sent, self.seen = self.answers[self.seen], self.seen + 1
            cuts = within(self.cuts, len(sent.octets))
            whole = sent.octets + sent.surplus
            for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                writer.write(whole[start:end])
                await turn()
            if sent.closes:
                return


@dataclass(frozen=True)
class AnswerSite:
    gateway: RunningGateway
    homeserver: RawServer
    cutting: Cutting


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def answer_site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AnswerSite]:
    cutting = Cutting()
    async with RawServer(cutting).running() as homeserver:
        async with running_gateway(tmp_path_factory.mktemp("answers"), homeserver.url) as gateway:
            yield AnswerSite(gateway, homeserver, cutting)


def within(cuts: Sequence[int], length: int) -> list[int]:
    return sorted({cut for cut in cuts if cut < length})


def everywhere(length: int) -> list[int]:
    return list(range(1, length))


def expected_fields(request: SentRequest) -> set[str]:
    return {f"Host: {request.host}", *request.kept}


def check_arrived(arrived: Sequence[Arrived], requests: Sequence[SentRequest]) -> None:
    assert [message.line for message in arrived] == [f"{request.line} HTTP/1.1" for request in requests]
    for message, request in zip(arrived, requests, strict=True):
        assert message.whole
        assert message.body == (request.body or b"")
        assert message.trailers == []
        framing = ["chunked" if message.values("transfer-encoding") else "", *message.values("content-length")]
        assert framing == request.framing
        own = ("x-forwarded-", "content-length:", "transfer-encoding:")
        assert {one for one in message.fields if not one.lower().startswith(own)} == expected_fields(request)


def check_answered(answers: Sequence[Answer], requests: Sequence[SentRequest]) -> None:
    methods = [request.line.partition(" ")[0] for request in requests]
    assert [(given.status, given.whole, given.values("X-Number")) for given in answers] == [
        (200, True, [str(number)]) for number, _ in enumerate(methods, 1)
    ]
    bodies = [answer(number, head_only=method == "HEAD") for number, method in enumerate(methods, 1)]
    assert [given.body for given in answers] == [body.partition(b"\r\n\r\n")[2] for body in bodies]


async def play_requests(site: Site, requests: Sequence[SentRequest], cuts: Sequence[int]) -> None:
    site.recorder.begin()
    octets = b"".join(request.octets for request in requests)
    async with wired(site.gateway.port) as client:
        sending = asyncio.create_task(client.send_in_pieces(octets, within(cuts, len(octets))))
        received = await client.receive(SOON)
        sending.cancel()
        await asyncio.wait([sending])
    assert site.recorder.oddities == []
    check_arrived(site.recorder.arrived, requests)
    check_answered(read_answers(received, [request.line.partition(" ")[0] for request in requests]), requests)


async def play_answers(site: AnswerSite, answers: Sequence[SentAnswer], cuts: Sequence[int]) -> None:
    site.cutting.begin(answers, cuts)
    last = len(answers) - 1
    async with wired(site.gateway.port) as client:
        for number, sent in enumerate(answers):
            close = "Connection: close\r\n" if number == last else ""
            await client.send(f"{sent.method} /{number} HTTP/1.1\r\nHost: gw.test\r\n{close}\r\n".encode())
        received = await client.receive(SOON)
    found = read_answers(received, [sent.method for sent in answers])
    assert [(one.status, one.interim, one.body, one.whole) for one in found] == [
        (sent.status, sent.interim, sent.body, True) for sent in answers
    ]
    assert [one.framing for one in found] == [sent.framing for sent in answers]
    assert site.cutting.seen == len(answers)


@in_one_loop
@pytest.mark.parametrize("name", REQUESTS)
async def test_requests_arrive_whole(name: str, site: Site) -> None:
    await play_requests(site, REQUESTS[name], [])


@in_one_loop
@pytest.mark.parametrize("name", [name for name, sent in REQUESTS.items() if sum(len(r.octets) for r in sent) < FEW])
async def test_requests_arrive_octet_by_octet(name: str, site: Site) -> None:
    await play_requests(site, REQUESTS[name], everywhere(FEW))


@in_one_loop
@pytest.mark.parametrize("name", REQUESTS)
@given(cuts=places)
@fuzzed
async def test_requests_arrive_however_they_are_cut(name: str, site: Site, cuts: Sequence[int]) -> None:
    await play_requests(site, REQUESTS[name], cuts)


@in_one_loop
@pytest.mark.parametrize("name", ANSWERS)
async def test_answers_arrive_whole(name: str, answer_site: AnswerSite) -> None:
    await play_answers(answer_site, ANSWERS[name], [])


@in_one_loop
@pytest.mark.parametrize("name", [name for name, sent in ANSWERS.items() if max(len(a.octets) for a in sent) < FEW])
async def test_answers_arrive_octet_by_octet(name: str, answer_site: AnswerSite) -> None:
    await play_answers(answer_site, ANSWERS[name], everywhere(FEW))


@in_one_loop
@pytest.mark.parametrize("name", ANSWERS)
@given(cuts=places)
@fuzzed
async def test_answers_arrive_however_they_are_cut(name: str, answer_site: AnswerSite, cuts: Sequence[int]) -> None:
    await play_answers(answer_site, ANSWERS[name], cuts)


def test_the_sequences_are_many_and_end_themselves() -> None:
    assert len(REQUESTS) >= 40
    assert all(b"\r\nConnection: close" in requests[-1].octets for requests in REQUESTS.values())
