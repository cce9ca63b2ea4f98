"""Answers of the homeserver that fit nothing that any is known for: refused, nothing made, and nothing lost."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.fake_homeserver import FakeHomeserver, Seen
from tests.flavours import FLAVOURS, Flavour
from tests.running_gateway import SERVER_NAME, mint, running_gateway

ALICE = f"@alice:{SERVER_NAME}"


def answer(status: int, body: object) -> Callable[[], web.Response]:
    return lambda: web.Response(status=status, text=body if isinstance(body, str) else json.dumps(body))


ANSWERS = [
    answer(200, {}),
    answer(200, []),
    answer(200, "<html>"),
    answer(200, {"user_id": 5, "access_token": None, "device_id": [], "available": "yes", "server": "x"}),
    answer(200, {"user_id": "@mallory:example.org", "access_token": "syt_mallory", "device_id": "D"}),
    answer(200, {"errcode": 5, "error": {}}),
    answer(204, ""),
    answer(302, ""),
    answer(400, {"errcode": ["M_USER_IN_USE"]}),
    answer(400, {"errcode": "M_SOMETHING_NEW", "error": "\u202e"}),
    answer(403, ""),
    answer(404, "<html>"),
    answer(404, {}),
    answer(418, {"errcode": None}),
    answer(429, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": "soon"}),
    answer(429, {"retry_after_ms": 10**30}),
    answer(500, "Internal Server Error"),
    answer(599, {}),
]
PLACES = ["software", "versions", "server", "available", "profile", "whoami", "register", "login"]


class Strange(FakeHomeserver):
    """Answers the calls of one name otherwise."""

    place = ""
    what = staticmethod(ANSWERS[0])

    def _answer(self, name: str, seen: Seen) -> web.Response:
        return self.what() if name == self.place else super()._answer(name, seen)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_what_fits_nothing_is_refused_and_loses_nothing(flavour: Flavour, tmp_path: Path) -> None:
    for place in PLACES:
        for number, strange in enumerate(ANSWERS):
            directory = tmp_path / f"{place}{number}"
            directory.mkdir()
            homeserver = Strange(flavour)
            homeserver.place, homeserver.what = place, strange
            await homeserver.start()
            case = f"{place}, answer {number}"
            try:
                identity = {"existing_accounts": "refuse" if number % 2 else "link"}
                async with running_gateway(directory, homeserver.url, identity=identity) as gateway:
                    first = await gateway.log_in(mint())
                    assert first.status in {200, 400, 403, 429, 502, 503, 504}, case
                    assert first.status != 200 or first.body["user_id"] == ALICE, case
                    assert "mallory" not in json.dumps(first.body), case
                    assert "raceback" not in gateway.log, case
                    homeserver.place = ""
                    later = await gateway.log_in(mint())
                    assert later.status == 200, (case, first.body, later.body, gateway.log)
                assert set(homeserver.users) <= {"alice"}, case
            finally:
                await homeserver.stop()
