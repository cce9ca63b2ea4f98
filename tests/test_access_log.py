"""The access log is a line for each request, whatever the request holds, and never a secret."""

import asyncio
import io
import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access_log import Access, AccessLog, shown_path
from gateway.logs import LogSettings

MOMENT = 1_700_000_000.25


def access(target: str = "/_matrix/client/versions", **fields: Any) -> Access:
    told: dict[str, Any] = {
        "route": "relay",
        "method": "GET",
        "target": target,
        "status": 200,
        "received": 0,
        "sent": 12,
        "peer": "127.0.0.1",
        "address": "203.0.113.7",
    }
    return Access(**told | fields)


def written(form: Literal["text", "json"], *accesses: Access) -> str:
    async def write() -> str:
        stream = io.StringIO()
        log = AccessLog(LogSettings(format=form), stream, lambda: MOMENT)
        for one in accesses:
            log.write(one, "abc-1", 0.0123)
        log.flush()
        return stream.getvalue()

    return asyncio.run(write())


def test_a_line_of_text_tells_what_there_is_of_a_request() -> None:
    assert written("text", access()) == (
        "2023-11-14T22:13:20.250000Z [info     ] request request_id=abc-1 route=relay method=GET"
        " path=/_matrix/client/versions status=200 ms=12.30 received=0 sent=12 peer=127.0.0.1 address=203.0.113.7\n"
    )


def test_a_line_of_json_is_an_object_with_the_same() -> None:
    assert json.loads(written("json", access())) == {
        "request_id": "abc-1",
        "route": "relay",
        "method": "GET",
        "path": "/_matrix/client/versions",
        "status": 200,
        "ms": 12.3,
        "received": 0,
        "sent": 12,
        "peer": "127.0.0.1",
        "address": "203.0.113.7",
        "event": "request",
        "level": "info",
        "timestamp": "2023-11-14T22:13:20.250000Z",
    }


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/_matrix/client/v3/sync?access_token=s3cret", "/_matrix/client/v3/sync"),
        ("/?loginToken=s3cret", "/"),
        ("/a/access_token=s3cret/b", "/a/access_token=.../b"),
        ("/a%3Faccess_token%3ds3cret", "/a%3Faccess_token%3d..."),
        ("/a;LOGINTOKEN=s3cret;c", "/a;LOGINTOKEN=...;c"),
        ("/a#access_token=s3cret", "/a#access_token=..."),
        ("/_matrix/client/v3/tokens", "/_matrix/client/v3/tokens"),
    ],
)
def test_no_query_and_no_secret_is_in_the_path(target: str, path: str) -> None:
    assert shown_path(target) == path


@pytest.mark.parametrize("form", ["text", "json"])
@given(target=st.text())
def test_any_target_gives_one_line(form: Literal["text", "json"], target: str) -> None:
    line = written(form, access(target))

    assert line.endswith("\n")
    assert line[:-1].isprintable()
    if form == "json":
        assert json.loads(line)["path"] == shown_path(target)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    with io.StringIO() as stream:
        yield stream


async def test_lines_are_written_together_and_soon(lines: io.StringIO) -> None:
    log = AccessLog(LogSettings(), lines, lambda: MOMENT)
    log.write(access(), "abc-1", 0)
    log.write(access(), "abc-2", 0)
    assert lines.getvalue() == ""
    async with asyncio.timeout(5):
        while not lines.getvalue():
            await asyncio.sleep(0.01)

    assert lines.getvalue().count("\n") == 2


async def test_many_lines_do_not_wait(lines: io.StringIO) -> None:
    log = AccessLog(LogSettings(), lines, lambda: MOMENT)
    for _ in range(1000):
        log.write(access(), "abc-1", 0)

    assert lines.getvalue().count("\n") >= 500


async def test_the_journal_is_told_the_level_of_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log = AccessLog(LogSettings(), stream, lambda: MOMENT)
        log.write(access(), "abc-1", 0)
        log.flush()

    assert (tmp_path / "journal").read_text().startswith("<6>2023-11-14T22:13:20.250000Z [info     ] request ")


async def test_each_line_has_its_own_time(lines: io.StringIO) -> None:
    moments = count(1_700_000_000, 0.5)
    log = AccessLog(LogSettings(), lines, lambda: next(moments))
    for _ in range(3):
        log.write(access(), "abc-1", 0)
    log.flush()

    assert [line[17:27] for line in lines.getvalue().splitlines()] == ["20.000000Z", "20.500000Z", "21.000000Z"]
