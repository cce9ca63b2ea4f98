"""A body is whole when its framing says so, however it comes; whoever takes it learns of every change."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.body import LAST_CHUNK, NO_BODY, Body, BodyBroken, chunk

Framing = int | Literal["close"] | None


def cut(octets: bytes, places: Iterable[int]) -> Iterator[bytes]:
    ends = sorted({place % (len(octets) + 1) for place in places} | {len(octets)})
    for start, end in zip([0, *ends], ends, strict=False):
        if start < end:
            yield octets[start:end]


def sent(framing: Framing, data: bytes, pieces: Sequence[bytes]) -> bytes:
    """Return the octets of a body with this framing."""
    return data if framing is not None else b"".join(map(chunk, pieces)) + LAST_CHUNK


cuts = st.lists(st.integers(0, 2**16), max_size=8)
pieces_of_data = st.lists(st.binary(min_size=1, max_size=30), max_size=5)


@given(pieces_of_data, st.sampled_from(["length", "chunks"]), cuts, st.binary(max_size=9))
def test_a_body_gives_what_belongs_to_it_and_says_where_it_ends(
    pieces: Sequence[bytes],
    kind: str,
    places: Sequence[int],
    behind: bytes,
) -> None:
    data = b"".join(pieces)
    framing = None if kind == "chunks" else len(data)
    body, taken, rest = Body(framing), b"", b""
    for read in cut(sent(framing, data, pieces) + behind, places):
        if body.ended:
            rest += read
            continue
        end = body.feed(read, 0)
        taken += body.take()
        rest += read[end:]
        assert body.waiting == 0

    assert (taken, rest, body.received) == (data, behind, len(data))
    assert body.ended
    assert body.error is None


@given(st.binary(max_size=60), cuts)
def test_a_body_that_ends_with_the_connection_is_all_that_comes(data: bytes, places: Sequence[int]) -> None:
    body = Body("close")
    for read in cut(data, places):
        assert body.feed(read, 0) == len(read)
    assert (body.ended, body.waiting, body.received) == (False, len(data), len(data))

    body.end_with_connection()

    assert (body.ended, body.take()) == (True, data)


@pytest.mark.parametrize("framing", [5, None, "close"])
def test_a_body_begins_where_the_head_ends(framing: Framing) -> None:
    body = Body(framing)
    octets = sent(framing, b"hello", [b"hello"])

    assert body.feed(b"head" + octets, 4) == 4 + len(octets)
    assert body.take() == b"hello"


@pytest.mark.parametrize("framing", [5, None])
def test_a_body_ends_at_its_last_octet_also_where_a_read_does(framing: Framing) -> None:
    octets, body = sent(framing, b"hello", [b"hello"]), Body(framing)
    for place in range(len(octets)):
        assert not body.ended
        assert body.feed(octets[place : place + 1], 0) == 1

    assert body.ended
    assert body.take() == b"hello"


def test_no_body_has_ended_and_takes_nothing() -> None:
    assert NO_BODY.ended
    assert NO_BODY.take() == b""
    assert Body(0).ended


@pytest.mark.parametrize("framing", [5, None])
def test_a_body_that_the_connection_cuts_off_is_broken(framing: Framing) -> None:
    """RFC 9112 8."""
    body = Body(framing)
    body.feed(b"5\r\nh", 0)
    changes: list[str] = []
    body.changed = lambda: changes.append("changed")

    body.end_with_connection()

    assert not body.ended
    assert isinstance(body.error, BodyBroken)
    assert changes == ["changed"]
    assert body.take() != b""  # what came is there all the same


def test_a_body_that_ends_with_the_connection_is_broken_where_that_was_no_end() -> None:
    body = Body("close")
    body.feed(b"half", 0)
    body.end_with_connection("reset")

    assert not body.ended
    assert str(body.error) == "reset"


@pytest.mark.parametrize("framing", [0, 4, None, "close"])
def test_an_end_is_told_once_and_stays(framing: Framing) -> None:
    body, changes = Body(framing), 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    body.changed = changed
    if not body.ended:
        body.feed(sent(framing, b"data", [b"data"]), 0)
    if framing == "close":
        body.end_with_connection()
    else:
        body.break_off("too late")
        body.end_with_connection()
    before = changes
    body.break_off("too late")

    assert body.error is None
    assert body.ended
    assert changes == before == (1 if framing == "close" else 0)


def test_the_first_reason_is_the_one_that_is_told() -> None:
    body = Body("close")
    body.break_off("first")
    body.break_off("second")
    body.end_with_connection()

    assert str(body.error) == "first"
    assert not body.ended


def test_chunks_that_are_none_break_the_body_and_keep_what_came_before() -> None:
    body, changes = Body(None), []
    body.feed(b"2\r\nab\r\n", 0)
    body.changed = lambda: changes.append(body.error)

    assert body.feed(b"zz\r\nrest", 0) == 8
    assert changes == [body.error] != [None]
    assert body.take() == b"ab"
    assert not body.ended


def test_whoever_holds_the_sender_back_learns_once_that_octets_were_taken() -> None:
    body, told = Body(10), []
    body.feed(b"abc", 0)
    body.taken = lambda: told.append(body.waiting)

    assert body.take() == b"abc"
    assert body.take() == b""
    body.feed(b"def", 0)
    assert body.take() == b"def"
    assert told == [0]


def test_pieces_are_joined_when_they_are_taken() -> None:
    body = Body("close")
    for piece in (b"a", b"b", b"c"):
        body.feed(piece, 0)

    assert body.take() == b"abc"


# Reading.


async def test_a_reader_gets_what_is_there_then_waits_then_gets_the_end() -> None:
    body = Body(6)
    body.feed(b"abc", 0)
    assert await body.read() == b"abc"
    reading = asyncio.ensure_future(body.read())
    await asyncio.sleep(0)
    assert not reading.done()

    body.feed(b"def", 0)
    body.notify()
    body.notify()  # of the same change, before the reader had its turn

    assert await reading == b"def"
    assert await body.read() == b""
    assert body.changed is None


async def test_a_reader_gets_what_came_before_the_break_and_then_the_break() -> None:
    body = Body(None)
    body.feed(b"2\r\nab\r\n", 0)
    body.break_off("gone")

    assert await body.read() == b"ab"
    with pytest.raises(BodyBroken, match="gone"):
        await body.read()
    with pytest.raises(BodyBroken, match="gone"):
        await body.read()


@pytest.mark.parametrize("framing", [5, None, "close"])
async def test_a_reader_that_waits_is_woken_by_the_end(framing: Framing) -> None:
    body = Body(framing)
    reading = asyncio.ensure_future(body.read())
    await asyncio.sleep(0)

    body.end_with_connection()

    if framing == "close":
        assert await reading == b""
    else:
        with pytest.raises(BodyBroken):
            await reading


async def test_a_reader_that_a_chunk_just_woke_still_learns_that_the_body_broke() -> None:
    body = Body(None)
    body.feed(b"4\r\nhalf", 0)
    assert await body.read() == b"half"
    reading = asyncio.ensure_future(body.read())
    await asyncio.sleep(0)
    body.notify()
    body.feed(b"\r\nzz\r\n", 0)

    with pytest.raises(BodyBroken):
        await asyncio.wait_for(reading, 1)


async def test_a_reader_that_nothing_woke_goes_on_waiting() -> None:
    """Some octets are no data."""
    body = Body(None)
    reading = asyncio.ensure_future(body.read())
    await asyncio.sleep(0)
    body.feed(b"1", 0)
    body.notify()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not reading.done()
    body.feed(b"\r\nx", 0)
    body.notify()

    assert await reading == b"x"


async def test_a_reader_that_is_cancelled_is_told_nothing_more() -> None:
    body = Body(5)
    reading = asyncio.ensure_future(body.read())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    assert body.changed is None
    body.feed(b"hello", 0)
    body.notify()
    assert await body.read() == b"hello"


async def test_of_a_body_that_is_too_large_no_more_is_waited_for_than_shows_it() -> None:
    body = Body(9)
    reading = asyncio.ensure_future(body.read_bounded(4))
    for piece in (b"ab", b"cd", b"e"):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not reading.done()
        body.feed(piece, 0)
        body.notify()

    assert await asyncio.wait_for(reading, 1) == b"abcde"


async def test_a_body_that_is_as_large_as_it_may_be_is_read_whole() -> None:
    body = Body(4)
    body.feed(b"abcd", 0)

    assert await body.read_bounded(4) == b"abcd"
    assert await body.read_bounded(4) == b""


def test_no_octets_make_no_chunk() -> None:
    """RFC 9112 7.1: an empty one would be the last."""
    assert chunk(b"") == b""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
