"""Our flow is appended to the homeserver's answer, and everything else of it stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.flows import add_flows

TYPES = ["org.matrix.login.jwt"]


def test_the_flow_comes_last_and_members_keep_their_order() -> None:
    body = '{"z": 1, "flows": [{"type": "m.login.password", "x": [1]}], "a": "é"}'.encode()

    assert (
        add_flows(body, TYPES)
        == (
            '{"z": 1, "flows": [{"type": "m.login.password", "x": [1]}, {"type": "org.matrix.login.jwt"}], "a": "é"}'
        ).encode()
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"flows": [{"type": "org.matrix.login.jwt"}]}',
        b'{"flows": {}}',
        b"{}",
        b"[]",
        b"not json",
        b"\xff",
        b'{"flows": [], "flows": []}',
        b'{"flows": [], "x": 1e999}',
    ],
)
def test_any_other_answer_stays_as_it_came(body: bytes) -> None:
    assert add_flows(body, TYPES) is None


@given(st.binary())
def test_any_octets_are_taken_or_left(body: bytes) -> None:
    assert add_flows(body, TYPES) is None or body.startswith(b"{")
