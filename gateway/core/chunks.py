"""Where a chunked body ends, whatever the reads (RFC 9112 7.1): the chunk sizes are walked, the data is passed on.

The rule of this file: RFC 9112's grammar and nothing beside it; each octet is looked at a bounded number of times.
"""

import re
from typing import Final

# Octets of a line, and of all trailer fields; nobody needs more, and they are dropped anyway.
_MAX_LINE: Final = 4096
_MAX_TRAILERS: Final = 16384
_CRLF: Final = b"\r\n"
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t !\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
# 7.1 and 7.1.1; white space around ";" and "=" is bad, but grammar (RFC 9110 5.6.3). 15 digits are 2^60 octets.
_CHUNK: Final = re.compile(
    rb"(?=[0-9A-Fa-f])0*+([0-9A-Fa-f]{0,15})"
    rb"(?:[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?+)*+\r\n" % (_TOKEN, _TOKEN, _QUOTED)
)
# 7.1.2: field lines, without the folding of old (5.2).
_TRAILER: Final = re.compile(rb"%b:[\t \x21-\x7e\x80-\xff]*+\r\n" % _TOKEN)


class BadChunk(ValueError):
    """The octets are no chunked body; the text says why."""


class Chunks:
    """The state of one chunked body; `ended` once the empty line behind the trailer section was seen."""

    __slots__ = ("_left", "_line", "_trailers", "ended")

    def __init__(self) -> None:
        self.ended = False
        # Octets of chunk data still to come; 0: a line comes, the one behind the data (-1), a size, or a trailer.
        self._left = 0
        self._line = b""
        # Octets of trailers; None before the last chunk.
        self._trailers: int | None = None

    def decode(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Return the chunk data in `data[start:]`, and where the body, or the data, ends; raises `BadChunk`."""
        if self._line:  # it began in an earlier read
            data, start, shift = self._line + data[start:], 0, start - len(self._line)
            self._line = b""
        else:
            shift = 0
        pieces: list[bytes] = []
        size = len(data)
        while start < size and not self.ended:
            if self._left > 0:
                end = min(start + self._left, size)
                pieces.append(data[start:end])
                self._left = self._left - (end - start) or -1
                start = end
            else:
                start = self._read_line(data, start)
        return b"".join(pieces), start + shift

    def _read_line(self, data: bytes, start: int) -> int:
        """Read the line that begins here and return where it ends; one that is not whole yet is kept."""
        if self._left:  # the end of the chunk data
            if data.startswith(_CRLF, start):
                self._left = 0
                return start + 2
            return self._keep(data, start, whole=data[start:] != b"\r")
        if self._trailers is None:
            if (found := _CHUNK.match(data, start)) is None:
                return self._keep(data, start, whole=data.find(b"\n", start) >= 0)
            if found.end() - start > _MAX_LINE:
                raise BadChunk("a line with a chunk size is too long")
            self._left = int(found[1] or b"0", 16)
            if not self._left:
                self._trailers = 0
            return found.end()
        return self._read_trailer(data, start, self._trailers)

    def _read_trailer(self, data: bytes, start: int, before: int) -> int:
        if data.startswith(_CRLF, start):
            self.ended = True
            return start + 2
        if (found := _TRAILER.match(data, start)) is None:
            return self._keep(data, start, whole=data[start:] != b"\r" and data.find(b"\n", start) >= 0)
        size = found.end() - start
        self._trailers = before + size
        if size > _MAX_LINE or self._trailers > _MAX_TRAILERS:
            raise BadChunk("the trailer section is too large")
        return found.end()

    def _keep(self, data: bytes, start: int, *, whole: bool) -> int:
        """Keep a line that is not whole; one that is does not fit the grammar."""
        line = data[start:]
        if whole:
            raise BadChunk("a line of a chunked body is malformed")
        if len(line) > _MAX_LINE or not _may_begin(line):
            raise BadChunk("a line of a chunked body is too long or malformed")
        self._line = line
        return len(data)


def _may_begin(line: bytes) -> bool:
    """Say whether a line that is not whole may become one, as far as its line end and NUL tell."""
    return b"\0" not in line and b"\r" not in line[:-1]
