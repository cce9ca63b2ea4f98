"""What attackers and odd clients send, case by case: what may reach the homeserver of it, and what is answered.

One gateway and one recorder serve all cases, so that what a case leaves behind would show in the next.
"""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass

import pytest

from tests.raw_http import RawClient, connected
from tests.web.raw_cases import HOST, OWN_HOST, Arrived, Case, Expected, Site, answer, read_cases

in_one_loop = pytest.mark.asyncio(loop_scope="module")

CASES = read_cases()
SOON = 5
# How long "nothing happens" is watched.
A_WHILE = 0.25
# So many octets are read in one piece, whatever the loop.
ALL_AT_ONCE = 2**15
LAST = b"GET /_matrix/client/v3/last HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n\r\n"
LAST_EXPECTED = Expected("GET /_matrix/client/v3/last", (HOST,), None, None)
FRAMING = ("content-length", "transfer-encoding")
FORWARDED = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")


@dataclass(frozen=True)
class Answer:
    head: bytes
    body: bytes

    @property
    def closes(self) -> bool:
        # RFC 9112 9.3: HTTP/1.0 closes unless it says otherwise, and that is what an answer to the unreadable speaks.
        asked = b"\r\nConnection: close\r\n" in self.head
        return asked or (self.head.startswith(b"HTTP/1.0 ") and b"\r\nConnection:" not in self.head)


async def read_answer(client: RawClient, *, head_only: bool) -> Answer:
    """Return the next final answer."""
    head = await client.head()
    while head.startswith(b"HTTP/1.1 1"):
        assert not head.startswith(b"HTTP/1.1 101"), head
        head = await client.head()
    assert head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 4")), head
    names = {line.partition(b":")[0].lower(): line.partition(b":")[2] for line in head.split(b"\r\n")[1:]}
    body = b"" if head_only else await client.reader.readexactly(int(names[b"content-length"]))
    return Answer(head, body)


async def send(client: RawClient, case: Case, piece: int) -> None:
    """Send the octets of a case so many at a time, unless the gateway ends the connection first."""
    with suppress(ConnectionError):
        for start in range(0, len(case.octets), piece):
            await client.send(case.octets[start : start + piece])
            await asyncio.sleep(0)
            if client.reader.at_eof() or client.writer.is_closing():
                return
        if case.ends:
            client.writer.write_eof()


async def play(case: Case, piece: int, port: int) -> list[Answer]:
    """Send the case, then one more request where the connection goes on; return the final answers."""
    seen: list[Answer] = []
    async with connected(port) as client, asyncio.timeout(SOON):
        await send(client, case, piece)
        wanted = max(len(case.requests), len(case.answers))
        lines = [request.line for request in case.requests] + [""] * wanted
        try:
            while len(seen) < wanted and not (seen and seen[-1].closes):
                head_only = lines[len(seen)].startswith("HEAD ")
                seen.append(await read_answer(client, head_only=head_only))
            if not case.ends and not seen[-1].closes:
                await client.send(LAST)
                seen.append(await read_answer(client, head_only=False))
            rest = await client.rest()
        except asyncio.IncompleteReadError as error:
            rest = error.partial
        except ConnectionError:
            rest = b""
    assert rest == b""
    return seen


def may_be_silent(case: Case, piece: int) -> bool:
    """Say whether the connection may end without an answer: RFC 9112 9.6, a close with unread octets is a reset."""
    return case.ends or piece == 1 or len(case.octets) > ALL_AT_ONCE


def refused(given: Answer) -> None:
    """Check that an answer is ours, can be read by a Matrix client, and ends the connection."""
    assert given.head[9:10] in b"45", given.head
    assert given.closes, given.head
    assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in given.head
    assert given.body == b"" or json.loads(given.body)["errcode"].startswith("M_")


def relayed(given: Answer, number: int, *, closes: bool) -> None:
    """Check that an answer is the recorder's `number`th, octet for octet."""
    close = b"Connection: close\r\n\r\n" if closes else b"\r\n"
    head, _, body = answer(number, head_only=given.body == b"").partition(b"\r\n\r\n")
    assert given == Answer(head + b"\r\n" + close, body)


def arrived_as(message: Arrived, expected: Expected, homeserver: str) -> None:
    """Check a message at the homeserver in every octet but the order of what the gateway adds."""
    assert message.line == f"{expected.line} HTTP/1.1"
    left = [line for line in message.fields if line.partition(":")[0].lower() not in {*FRAMING, *FORWARDED}]
    assert left == [line.replace(OWN_HOST, f"Host: {homeserver}") for line in expected.fields]
    named = [line.partition(":")[2].strip(" ") for line in expected.fields if line.lower().startswith("host:")]
    asked = [] if OWN_HOST in expected.fields else named
    assert [message.values(name) for name in FORWARDED] == [["127.0.0.1"], ["http"], asked]
    assert message.values("transfer-encoding") == ([] if expected.chunks is None else ["chunked"])
    assert [int(value) for value in message.values("content-length")] == (
        [] if expected.body is None else [len(expected.body)]
    )
    assert message.body == (expected.body or expected.chunks or b"")
    assert message.trailers == []


def check_arrived(case: Case, seen: list[Answer], site: Site) -> int:
    """Check what reached the homeserver; return how many requests of the case's own did."""
    recorder = site.recorder
    assert recorder.oddities == []
    whole = [message for message in recorder.arrived if message.whole]
    assert case.begins or whole == recorder.arrived
    last = [message for message in whole if message.line == f"{LAST_EXPECTED.line} HTTP/1.1"]
    own = whole[: len(whole) - len(last)]
    assert len(own) <= len(case.requests), [message.line for message in own]
    for message, expected in zip(whole, [*case.requests[: len(own)], *([LAST_EXPECTED] * len(last))], strict=True):
        arrived_as(message, expected, site.homeserver.url.removeprefix("http://"))
    assert len(last) == (len(seen) > max(len(case.requests), len(case.answers)))
    return len(own)


def check_answers(case: Case, seen: list[Answer], arrived: int) -> None:
    """Check what the client got, in its order, and so that the connection went on or ended as it should."""
    answers = case.answers
    if case.outcome == "may be refused" and (arrived < len(case.requests) or len(seen) == len(case.requests)):
        answers = tuple(["relayed"] * arrived + ["refused"] * (len(seen) - arrived))
        assert len(answers) - arrived in {0, 1}
    elif not case.ends and not case.closes and answers[-1:] != ("refused",):
        answers = (*answers, "relayed")
    assert len(seen) == len(answers), [given.head[:40] for given in seen]
    number = 0
    for given, wanted in zip(seen, answers, strict=True):
        if wanted == "refused":
            refused(given)
        elif wanted == "relayed":
            number += 1
            relayed(given, number, closes=given is seen[-1] and not case.ends)
        else:
            status, errcode = wanted.split()
            assert given.head.split()[1] == status.encode()
            assert json.loads(given.body)["errcode"] == errcode


async def check_next(site: Site) -> None:
    """Check that nothing hangs at the homeserver, and that the next connection works as if nothing had been."""
    async with asyncio.timeout(SOON):
        while site.recorder.reading:
            await asyncio.sleep(0.005)
    site.recorder.begin()
    async with connected(site.gateway.port) as client, asyncio.timeout(SOON):
        await client.send(LAST)
        relayed(await read_answer(client, head_only=False), 1, closes=True)
    assert site.recorder.oddities == []
    (message,) = site.recorder.arrived
    arrived_as(message, LAST_EXPECTED, "")


@in_one_loop
@pytest.mark.parametrize(
    ("case", "piece"),
    [
        pytest.param(case, piece, id=f"{case.name}{how}")
        for piece, how in ((ALL_AT_ONCE * 16, ""), (1, ", octet by octet"))
        for case in CASES
        if case.outcome != "waits" and (piece > 1 or len(case.octets) < 1024)
    ],
)
async def test_a_case_ends_as_is_safe(case: Case, piece: int, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.recorder.begin()
    seen = await play(case, piece, site.gateway.port)
    arrived = check_arrived(case, seen, site)
    if seen or case.outcome == "exact" or not may_be_silent(case, piece):
        check_answers(case, seen, arrived)
    await check_next(site)
    assert "Traceback" not in caplog.text


@in_one_loop
@pytest.mark.parametrize("case", [case for case in CASES if case.outcome == "waits"], ids=lambda case: case.name)
async def test_half_a_request_waits_for_its_rest_and_goes_with_its_client(case: Case, site: Site) -> None:
    site.recorder.begin()
    async with connected(site.gateway.port) as client:
        await client.send(case.octets)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(A_WHILE):
                await client.rest()
        assert not any(message.whole for message in site.recorder.arrived)
        assert case.begins or site.recorder.arrived == []
    assert site.recorder.oddities == []
    await check_next(site)


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len({case.octets for case in CASES}) == len(CASES)
