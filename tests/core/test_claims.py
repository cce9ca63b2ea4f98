"""A claim is found by its whole name first, then along its path."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.claims import find_claim


@pytest.mark.parametrize(
    ("claims", "path", "value"),
    [
        ({"sub": "a"}, "sub", "a"),
        ({"user": {"name": "a"}}, "user.name", "a"),
        ({"a": {"b": {"c": 5}}}, "a.b.c", 5),
        ({"user.name": "a", "user": {"name": "b"}}, "user.name", "a"),
        ({"user.name": None, "user": {"name": "b"}}, "user.name", None),
        ({"https://example.org/name": "a"}, "https://example.org/name", "a"),
        ({"https://example.org/user": {"name": "a"}}, "https://example.org/user.name", "a"),
        ({"a": {"x": 1}, "a.b": {"c": 2}}, "a.b.c", 2),
        ({"a": {"b": False}}, "a.b", False),
        ({}, "sub", None),
        ({"a": "b"}, "a.b", None),
        ({"a": [{"b": 1}]}, "a.b", None),
        ({"a": {"b": 1}}, "a.", None),
        ({"a": {"b": 1}}, ".b", None),
        ({"": {"": "x"}}, ".", "x"),
    ],
)
def test_a_path_leads_to_its_value_or_to_nothing(claims: dict[str, Any], path: str, value: object) -> None:
    assert find_claim(claims, path) == value


CLAIMS = st.recursive(
    st.none() | st.text("ab.", max_size=3),
    lambda inner: st.dictionaries(st.text("ab.", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("ab.", max_size=3), CLAIMS), st.text("ab.", max_size=8))
def test_any_path_into_any_claims_gives_a_value_or_none(claims: dict[str, Any], path: str) -> None:
    found = find_claim(claims, path)

    assert found is None or repr(found) in repr(claims)
