"""An event is one line, whatever its values hold, and only from its level on."""

import io
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.access_log import Access, AccessLog
from gateway.logs import Level, LogSettings, get_logger, take_library_logs


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


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A stream to a disk that is full."""
    number = os.open("/dev/full", os.O_WRONLY)
    yield os.fdopen(number, "w", closefd=False)
    os.close(number)


def test_a_full_disk_loses_lines_and_nothing_else(full: TextIO) -> None:
    with pytest.raises(OSError, match="No space left"):
        print("a line", file=full, flush=True)
    log = get_logger(LogSettings(), full)
    for _ in range(1000):
        log.warning("event", reason="a reason")


async def test_a_full_disk_loses_lines_of_the_access_log_too(full: TextIO) -> None:
    log = AccessLog(LogSettings(), full, time.time)
    for _ in range(1000):
        log.write(Access("relay", "GET", "/", 200, 0, 2, "127.0.0.1", "127.0.0.1"), "abc-1", 0.001)
    log.flush()


def test_a_field_with_nothing_in_it_is_left_out() -> None:
    stream = io.StringIO()
    get_logger(LogSettings(format="json"), stream).info("event", address="", issuer=None, first=False, count=[])

    assert set(json.loads(stream.getvalue())) == {"event", "level", "timestamp", "first", "count"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_journal_is_told_the_level_of_each_line(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logger = get_logger(LogSettings.model_validate({"format": form, "level": "debug"}), stream)
        for say in (logger.debug, logger.info, logger.warning, logger.error):
            say("event")

    assert [line[:3] for line in path.read_text().splitlines()] == ["<7>", "<6>", "<4>", "<3>"]


@pytest.mark.parametrize("said", ["", "1:1", "nothing"])
def test_where_the_journal_is_elsewhere_no_level_is_told(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", said)
    with (tmp_path / "log").open("w") as stream:
        get_logger(LogSettings(), stream).info("event")

    assert not (tmp_path / "log").read_text().startswith("<")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_libraries_log_is_a_line_of_ours_also_with_a_trace(form: str) -> None:
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:]
    try:
        take_library_logs(get_logger(LogSettings.model_validate({"format": form}), stream))
        logging.getLogger("aiohttp.server").warning("careful")
        logging.getLogger("asyncio").error("went %s", "wrong", exc_info=ValueError("a fault\nin two lines"))
    finally:
        root.handlers[:] = before
    warned, failed = stream.getvalue().splitlines()

    assert "aiohttp.server" in warned
    assert "warning" in warned
    assert "went wrong" in failed
    assert "ValueError: a fault" in failed
    assert "error" in failed


@pytest.mark.parametrize("level", ["warning", "error"])
def test_an_access_log_needs_the_level_of_its_lines(level: str) -> None:
    with pytest.raises(ValidationError, match="needs level"):
        LogSettings.model_validate({"level": level, "access": True})


def test_below_its_level_nothing_is_written() -> None:
    stream = io.StringIO()
    logger = get_logger(LogSettings(level="warning"), stream)
    logger.info("quiet")
    logger.warning("loud")

    assert stream.getvalue().count("\n") == 1


def test_the_level_can_change_while_it_runs() -> None:
    stream, level = io.StringIO(), Level("warning")
    log = get_logger(LogSettings(level="debug"), stream, level)
    for name in ("info", "debug", "error"):
        log.info("at", level_name=name)
        log.error("at", level_name=name)
        level.use(name)

    assert stream.getvalue().count("[info     ]") == 2
    assert stream.getvalue().count("[error    ]") == 3
