"""What the gateway says while it runs: events with fields, as text for people or JSON for machines.

The rule of this file: no token, secret, password or request target with its query ever becomes a field.
"""

import logging
import os
import sys
from contextlib import suppress
from typing import Final, Literal, TextIO, TypeAlias, cast

import structlog
from pydantic import ValidationInfo, field_validator

from gateway.settings import Table

Logger: TypeAlias = structlog.typing.FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


# sd-daemon(3): how the journal is told which level a line has.
_PRIORITIES: Final = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}
INFO_PRIORITY: Final = _PRIORITIES["info"]


class LogSettings(Table):
    """The `[log]` table; with `access` each request has a line of level info."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = False

    @field_validator("access")
    @classmethod
    def _of_level_info(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's way
        if value and info.data.get("level") in {"warning", "error"}:
            raise ValueError('needs level = "info" or "debug": that is the level of its lines')
        return value


class Level:
    """Which events are severe enough to be written; a reload changes it."""

    def __init__(self, name: str) -> None:
        self.use(name)

    def use(self, name: str) -> None:
        """Leave out what is less severe from now on."""
        self._least = _LEVELS[name]

    def __call__(self, _logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Drop an event, or give it on."""
        if _LEVELS[method] < self._least:
            raise structlog.DropEvent
        return event


class Lossy:
    """A stream that loses what can't be written, on a full disk or to nobody: no request fails for it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write text, or lose it."""
        with suppress(OSError, ValueError):  # ValueError: it was closed, or can't hold a character
            self._stream.write(text)

    def flush(self) -> None:
        """Have what was written go out, or lose it."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def get_logger(settings: LogSettings, stream: TextIO | None = None, level: Level | None = None) -> Logger:
    """Return a logger that writes a line for each event to `stream`, standard error by default.

    `level` stands for that of the settings where it may change.
    """
    stream = stream or sys.stderr
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=0)
    )
    logger: Logger = structlog.wrap_logger(
        structlog.PrintLogger(cast("TextIO", Lossy(stream))),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        processors=[
            level or Level(settings.level),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _leave_out_empty,
            _escape_controls,
            _with_priority(render) if is_journal(stream) else render,
        ],
        cache_logger_on_first_use=True,
    )
    return logger


class _Forwarded(logging.Handler):
    """Says in our lines what libraries tell the standard library's logging; a trace is part of its line."""

    def __init__(self, log: Logger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        say = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        say("library", logger=record.name, text=self.format(record))


def take_library_logs(log: Logger) -> None:
    """Let what libraries log in this process go to `log`."""
    logging.getLogger().addHandler(_Forwarded(log))


def is_journal(stream: TextIO) -> bool:
    """Say whether a stream leads to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # ValueError: it is none of the system
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _with_priority(render: structlog.typing.Processor) -> structlog.typing.Processor:
    def rendered(logger: object, method: str, event: structlog.typing.EventDict) -> str:
        return f"{_PRIORITIES.get(method, INFO_PRIORITY)}{render(logger, method, event)!s}"

    return rendered


def _leave_out_empty(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: value for name, value in event.items() if value is not None and value != ""}


def printable(text: str) -> str:
    """Write characters out that would end the line or steer the operator's terminal: clients choose some values."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _escape_controls(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}
