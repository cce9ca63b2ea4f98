"""Which devices and tokens can be those of a session of Matrix Authentication Service."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.personal_sessions import fits_scope, may_be_personal, token_digest


@pytest.mark.parametrize("device_id", ["ABCDEFGHIJ", "a-b-c-d-e-0", "x" * 255, "A", "a/b.c_d*~"])
def test_a_device_of_what_a_scope_is_made_of_fits_one(device_id: str) -> None:
    assert fits_scope(device_id)


@pytest.mark.parametrize("device_id", ["ABCDEFGHI ", "ABCDEFGHIJ\n", 'a"b', "a\\b", "ABCDEFGHIÄ", "x" * 256, ""])
def test_any_other_does_not(device_id: str) -> None:
    assert not fits_scope(device_id)


@given(st.text(st.characters(codec=None)))
def test_any_text_has_a_digest_that_does_not_show_it(token: str) -> None:
    assert len(token_digest(token)) == 64
    assert len(token) < 10 or token not in token_digest(token)
    assert not may_be_personal("syt_" + token)
    assert may_be_personal("mpt_" + token)
