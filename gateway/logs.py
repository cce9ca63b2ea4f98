"""What the gateway says while it runs: events with fields, as text for people or JSON for machines.

The rule of this file: no token, secret, password or request target with its query ever becomes a field.
"""

import logging
import sys
from typing import Literal, TextIO, TypeAlias

import structlog

from gateway.settings import Table

Logger: TypeAlias = structlog.typing.FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class LogSettings(Table):
    """The `[log]` table."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


def get_logger(settings: LogSettings, stream: TextIO | None = None) -> Logger:
    """Return a logger that writes a line for each event to `stream`, standard error by default."""
    stream = stream or sys.stderr
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=0)
    )
    logger: Logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _leave_out_empty,
            _escape_controls,
            render,
        ],
        cache_logger_on_first_use=True,
    )
    return logger


def _leave_out_empty(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: value for name, value in event.items() if value is not None and value != ""}


def printable(text: str) -> str:
    """Write characters out that would end the line or steer the operator's terminal: clients choose some values."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _escape_controls(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}
