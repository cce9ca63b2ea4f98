"""A template is read whole, or refused with what is wrong in it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.template import parse_template


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("alice", "names no claim"),
        ("", "names no claim"),
        ("{", "without the name"),
        ("{}", "without the name"),
        ("{sub", "without its }"),
        ("{sub:(a}", "not a regular expression"),
        ("{sub:a}", "has no group"),
        ("{sub:(a)", "without its }"),
        ("a}{sub}", "a } without its {"),
        ("{sub:(a{99999999999999})}", "not a regular expression"),
        ("{sub:" + "(" * 3000 + ")" * 3000 + "}", "not a regular expression"),
        ("{sub:([[a])}", "not a regular expression"),
    ],
)
def test_a_template_that_can_mean_nothing_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_template(text)


@given(st.text() | st.text("{}sub:()[\\a", max_size=12).map("{{sub:{}}}".format))
def test_any_template_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert parse_template(text)
