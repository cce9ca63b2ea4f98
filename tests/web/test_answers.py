"""The gateway's own answers as they go out: JSON, CORS, and what must be said beside them."""

import json

import pytest

from gateway.errors import ANSWERS, Refusal, Refused
from gateway.upstream.pool import Reply
from gateway.web.answers import CORS_HEADERS, SERVER, homeserver_reply, refusal


@pytest.mark.parametrize("member", Refusal)
def test_every_refusal_is_matrix_json_with_cors(member: Refusal) -> None:
    response = refusal(Refused(member, "{} detail"))
    answer = ANSWERS[member]
    assert (response.status, response.content_type) == (answer.status, "application/json")
    assert isinstance(response.body, bytes)
    body = json.loads(response.body)
    assert body["errcode"] == answer.errcode
    assert body["error"] == answer.text.replace("{}", "{} detail")
    assert {name: response.headers[name] for name in CORS_HEADERS} == CORS_HEADERS
    assert response.headers["Server"] == SERVER
    assert "Retry-After" not in response.headers


@pytest.mark.parametrize(("pause", "seconds", "milliseconds"), [(0.2, "1", 200), (1, "1", 1000), (1.5, "2", 1500)])
def test_a_pause_is_rounded_up_to_whole_seconds(pause: float, seconds: str, milliseconds: int) -> None:
    response = refusal(Refused(Refusal.TOO_MANY_ATTEMPTS, retry_after=pause))
    assert response.headers["Retry-After"] == seconds
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["retry_after_ms"] == milliseconds


def test_a_detail_is_bounded() -> None:
    response = refusal(Refused(Refusal.UNDECODABLE, "x" * 10_000))
    assert isinstance(response.body, bytes)
    assert len(response.body) < 400


def test_an_answer_of_the_homeserver_keeps_its_own_fields() -> None:
    fields = [
        (b"content-type", b"application/json"),
        (b"access-control-allow-origin", b"https://app.example"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"Content-Length", b"999"),
        (b"Server", b"Synapse"),
    ]
    response = homeserver_reply(Reply(403, fields, b"{}"))
    assert (response.status, response.body) == (403, b"{}")
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert response.headers["Access-Control-Allow-Methods"] == CORS_HEADERS["Access-Control-Allow-Methods"]
    assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
    assert response.headers.getall("Server") == ["Synapse"]
    assert response.headers.get("Content-Length", "2") == "2"


def test_a_homeserver_without_a_name_does_not_get_that_of_a_library() -> None:
    assert homeserver_reply(Reply(200, [], b"{}")).headers["Server"] == SERVER
