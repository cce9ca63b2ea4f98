"""An event is one line, whatever its values hold, and only from its level on."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.logs import LogSettings, get_logger


def logged(text_or_json: str, value: str) -> str:
    stream = io.StringIO()
    get_logger(LogSettings.model_validate({"format": text_or_json}), stream).info("event", reason=value)
    return stream.getvalue()


def test_a_line_of_text_says_level_event_and_fields() -> None:
    assert logged("text", "plain").endswith("[info     ] event reason=plain\n")


def test_a_line_of_json_is_an_object() -> None:
    fields: dict[str, Any] = json.loads(logged("json", "café"))

    assert {"event": "event", "level": "info", "reason": "café"}.items() <= fields.items()
    assert fields["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "value", ["a\nb", "a\r\n[error] b", "\x1b[2J", "\x1b]0;title\x07", "\u202egnp", "a\u2028b", "\0"]
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_no_value_ends_the_line_or_steers_a_terminal(form: str, value: str) -> None:
    line = logged(form, value)

    assert line.endswith("\n")
    assert line[:-1].isprintable()


@given(st.sampled_from(["text", "json"]), st.text())
def test_any_text_as_value_gives_one_line(form: str, value: str) -> None:
    assert logged(form, value)[:-1].isprintable()


def test_a_field_with_nothing_in_it_is_left_out() -> None:
    stream = io.StringIO()
    get_logger(LogSettings(format="json"), stream).info("event", address="", issuer=None, first=False, count=[])

    assert set(json.loads(stream.getvalue())) == {"event", "level", "timestamp", "first", "count"}


def test_below_its_level_nothing_is_written() -> None:
    stream = io.StringIO()
    logger = get_logger(LogSettings(level="warning"), stream)
    logger.info("quiet")
    logger.warning("loud")

    assert stream.getvalue().count("\n") == 1
