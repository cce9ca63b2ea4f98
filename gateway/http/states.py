"""What a connection of a client waits for, and how far the answer to a request is: one state each."""

import enum


class ConnectionState(enum.Enum):
    """What the next octet belongs to."""

    # Nothing came since the last answer.
    IDLE = enum.auto()
    HEAD = enum.auto()
    # A request is at work; its body may still come.
    REQUEST = enum.auto()
    # The answer was sent; the rest of the body is dropped, and the client still takes the answer.
    DRAINING = enum.auto()
    CLOSED = enum.auto()


class AnswerState(enum.Enum):
    """How far the answer to a request is."""

    NONE = enum.auto()
    # A part is on its way: nothing but the rest of it may follow.
    STARTED = enum.auto()
    SENT = enum.auto()


# By name they take as long as much of what is done with them (before Python 3.12).
IDLE, HEAD, REQUEST, DRAINING, CLOSED = ConnectionState
NONE, STARTED, SENT = AnswerState
