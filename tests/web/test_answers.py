"""The gateway's own answers as they go out: JSON, CORS, and what must be said beside them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from gateway.errors import ANSWERS, Refusal, Refused
from gateway.upstream.pool import Reply
from gateway.web.answers import CORS_HEADERS, SERVER, preflight_reply, refusal, reply_octets
from tests.requested import requested


def sent(refused: Refused) -> tuple[int, Mapping[str, str], dict[str, Any]]:
    """Status, fields and body of a refusal as it goes out."""
    reply = refusal(refused)
    head, _, body = reply_octets(requested(), reply, keep_alive=True).decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(body)


@pytest.mark.parametrize("member", Refusal)
def test_every_refusal_is_matrix_json_with_cors(member: Refusal) -> None:
    answer = ANSWERS[member]
    status, fields, body = sent(Refused(member, "{} detail"))
    assert (status, fields["Content-Type"]) == (answer.status, "application/json")
    assert body["errcode"] == answer.errcode
    assert body["error"] == answer.text.replace("{}", "{} detail")
    assert {name: fields[name] for name in CORS_HEADERS} == CORS_HEADERS
    assert (fields["Server"], fields["Cache-Control"]) == (SERVER.decode(), "no-store")
    pause = None if answer.retry_after is None else f"{answer.retry_after:g}"
    assert fields.get("Retry-After") == pause


def test_an_answer_of_the_gateway_says_when_it_was_made() -> None:
    made = parsedate_to_datetime(sent(Refused(Refusal.BUSY))[1]["Date"])
    assert abs((datetime.now(UTC) - made).total_seconds()) < 5


@pytest.mark.parametrize(("pause", "seconds", "milliseconds"), [(0.2, "1", 200), (1, "1", 1000), (1.5, "2", 1500)])
def test_a_pause_is_rounded_up_to_whole_seconds(pause: float, seconds: str, milliseconds: int) -> None:
    _, fields, body = sent(Refused(Refusal.TOO_MANY_ATTEMPTS, retry_after=pause))
    assert fields["Retry-After"] == seconds
    assert body["retry_after_ms"] == milliseconds


def test_a_detail_is_bounded() -> None:
    assert len(sent(Refused(Refusal.UNDECODABLE, "x" * 10_000))[2]["error"]) < 300


def test_an_answer_of_the_homeserver_keeps_its_own_fields() -> None:
    fields = [
        (b"content-type", b"application/json"),
        (b"access-control-allow-origin", b"https://app.example"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"Content-Length", b"999"),
        (b"Server", b"Synapse"),
    ]
    lines = reply_octets(requested(), Reply(403, fields, b"{}"), keep_alive=True).split(b"\r\n")
    kept = [name + b": " + value for name, value in fields if name != b"Content-Length"]
    missing = [f"{name}: {value}".encode() for name, value in CORS_HEADERS.items() if not name.endswith("Origin")]
    assert lines == [b"HTTP/1.1 403 Forbidden", *kept, *missing, b"Content-Length: 2", b"", b"{}"]


@pytest.mark.parametrize("keep_alive", [True, False])
def test_the_last_answer_of_a_connection_says_so(*, keep_alive: bool) -> None:
    octets = reply_octets(requested(), Reply(299, [], b""), keep_alive=keep_alive)
    assert octets.startswith(b"HTTP/1.1 299 \r\n")
    assert (b"\r\nConnection: close\r\n" in octets) is not keep_alive


def test_pages_may_read_the_fields_that_synapse_shows_them_and_when_to_come_again() -> None:
    assert CORS_HEADERS["Access-Control-Expose-Headers"].split(", ") == ["Synapse-Trace-Id", "Server", "Retry-After"]


def test_a_preflight_is_answered_without_a_body() -> None:
    octets = reply_octets(requested(), preflight_reply(), keep_alive=True)

    assert octets.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert octets.endswith(b"\r\n\r\n")
    assert b"Content-Length" not in octets
    assert b"\r\nAccess-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, Date\r\n" in octets
