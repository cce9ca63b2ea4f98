"""A chunked body ends where RFC 9112 7.1 says, whatever the reads, and what is none is refused for any of them."""

import sys
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.chunks import BadChunk, Chunks

TOKENS = b"!#$%&'*+-.^_`|~09AZaz"
QUOTED = bytes(each for each in (*b"\t ", *range(0x21, 0x7F), *range(0x80, 0x100)) if each not in b'"\\')
ESCAPED = bytes((*b"\t ", *range(0x21, 0x7F), *range(0x80, 0x100)))
MAX_LINE, MAX_TRAILERS = 4096, 16384


def words(alphabet: bytes, smallest: int = 0, largest: int = 6) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(alphabet), min_size=smallest, max_size=largest).map(bytes)


def one_of(*choices: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(choices)


tokens = words(TOKENS, 1)
spaces = words(b" \t", largest=3)  # BWS, RFC 9110 5.6.3
quoted_strings = st.lists(words(QUOTED, 1, 3) | words(ESCAPED, 1, 1).map(lambda octet: b"\\" + octet)).map(
    lambda parts: b'"' + b"".join(parts) + b'"'
)
values = st.tuples(spaces, one_of(b"="), spaces, tokens | quoted_strings).map(b"".join)
extension = st.tuples(spaces, one_of(b";"), spaces, tokens, one_of(b"") | values).map(b"".join)
extensions = st.lists(extension, max_size=3).map(b"".join)
zeros = one_of(b"", b"0", b"0" * 40)
trailer = st.tuples(tokens, one_of(b":"), words(QUOTED + b'"\\', largest=12), one_of(b"\r\n")).map(b"".join)
trailers = st.lists(trailer, max_size=3).map(b"".join)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a body as RFC 9112 7.1 writes it, and its data."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
    octets = b""
    for piece in pieces:
        size = draw(one_of(b"%x" % len(piece), b"%X" % len(piece)))
        octets += draw(zeros) + size + draw(extensions) + b"\r\n" + piece + b"\r\n"
    octets += draw(one_of(b"0", b"0000")) + draw(extensions) + b"\r\n" + draw(trailers) + b"\r\n"
    return octets, b"".join(pieces)


def cut(octets: bytes, places: Iterable[int]) -> Iterator[bytes]:
    ends = sorted({place % (len(octets) + 1) for place in places} | {len(octets)})
    for start, end in zip([0, *ends], ends, strict=False):
        if start < end:
            yield octets[start:end]


def decoded(reads: Iterable[bytes]) -> tuple[bytes, bytes | None]:
    """Return the data of a body that comes in these reads, and what is behind it; None: it has not ended."""
    chunks, data = Chunks(), b""
    behind: bytes | None = None
    for read in reads:
        if behind is not None:
            behind += read
            continue
        piece, end = chunks.decode(read, 0)
        data += piece
        if chunks.ended:
            behind = read[end:]
        else:
            assert end == len(read)
    return data, behind


def verdict(reads: Iterable[bytes]) -> tuple[bytes, bytes | None] | None:
    """Return the same, and None for what is refused."""
    try:
        return decoded(reads)
    except BadChunk:
        return None


cuts = st.lists(st.integers(0, 2**16), max_size=12)


@given(bodies(), cuts, st.binary(max_size=30))
def test_any_body_cut_anywhere_gives_its_data_and_ends_where_it_ends(
    body: tuple[bytes, bytes], places: Sequence[int], behind: bytes
) -> None:
    octets, data = body

    assert decoded(cut(octets + behind, places)) == (data, behind)


@given(bodies(), cuts)
def test_a_body_is_not_over_before_its_last_octet(body: tuple[bytes, bytes], places: Sequence[int]) -> None:
    octets, data = body

    assert decoded(cut(octets[:-1], places)) == (data, None)


@given(bodies(), st.integers(0, 40))
def test_a_body_may_begin_anywhere_in_a_read(body: tuple[bytes, bytes], start: int) -> None:
    octets, data = body
    chunks = Chunks()

    assert chunks.decode(b"5" * start + octets + b"behind", start) == (data, start + len(octets))
    assert chunks.ended


# Octets that are a chunked body but for little: those of the grammar, in any order, and any others.
parts = one_of(b"0", b"5", b"a", b"\r\n", b"\r", b"\n", b";", b"=", b'"', b"\\", b" ", b"\0", b":", b"hello")
hostile = st.binary(max_size=60) | st.lists(parts).map(b"".join)


@given(hostile, cuts)
def test_any_octets_give_data_or_a_bad_chunk_whatever_the_reads(octets: bytes, places: Sequence[int]) -> None:
    whole = verdict([octets])

    assert verdict(cut(octets, places)) == whole
    assert verdict(cut(octets, range(len(octets)))) == whole


@given(bodies(), st.integers(0, 2**16), st.binary(min_size=1, max_size=2), cuts)
def test_a_body_with_an_octet_that_changed_has_one_meaning_whatever_the_reads(
    body: tuple[bytes, bytes], place: int, other: bytes, places: Sequence[int]
) -> None:
    octets = body[0]
    place %= len(octets)
    changed = octets[:place] + other + octets[place + 1 :]

    assert verdict(cut(changed, places)) == verdict([changed]) == verdict(cut(changed, range(len(changed))))


TAKEN = {
    "no data": (b"0\r\n\r\n", b""),
    "zeros before a size": (b"0" * 100 + b"1\r\na\r\n0\r\n\r\n", b"a"),
    "capitals": (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    # 7.1.1: recipients must parse bad white space, and ignore extensions that they don't know.
    "white space around the parts of an extension": (b"1 \t; \ta \t= \tb\r\nx\r\n0\r\n\r\n", b"x"),
    "a semicolon and quotes in a quoted string": (b'1;a=";\\"\\\\=";b\r\nx\r\n0 ;c\r\n\r\n', b"x"),
    "an empty quoted string": (b'1;a=""\r\nx\r\n0\r\n\r\n', b"x"),
    "octets beyond ASCII in a quoted string": (b'1;a="\xff\x80"\r\nx\r\n0\r\n\r\n', b"x"),
    # 7.1.2 and 6.5.1: trailer fields are dropped.
    "trailers": (b"1\r\nx\r\n0\r\nA: b\r\nb:\r\n\r\n", b"x"),
    "a trailer that looks like a chunk": (b"1\r\nx\r\n0\r\n5:\r\n\r\n", b"x"),
    "empty lines in the data": (b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n"),
    "a whole body in the data": (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
}
REFUSED = {
    # RFC 9112 7.1: chunk-size = 1*HEXDIG, and white space may follow it before an extension alone.
    "no size": b"\r\n",
    "an extension alone": b";a\r\n",
    "white space before a size": b" 1\r\n",
    "white space behind a size": b"1 \r\nx\r\n0\r\n\r\n",
    "a tab behind the last size": b"0\t\r\n\r\n",
    "a plus sign": b"+1\r\nx\r\n0\r\n\r\n",
    "a minus sign": b"-1\r\nx\r\n0\r\n\r\n",
    "a prefix": b"0x1\r\nx\r\n0\r\n\r\n",
    "an underscore": b"1_0\r\n",
    "a letter that is no digit": b"g\r\n",
    "a full width digit": b"\xef\xbc\x91\r\n",
    "two sizes": b"1 1\r\n",
    "2^64": b"10000000000000000\r\n",
    "2^60": b"1000000000000000\r\n",
    "zeros before 2^64": b"00010000000000000000\r\n",
    # 2.2 lets a recipient take a bare LF; one behind us might not, or take it elsewhere.
    "LF behind a size": b"1\nx\r\n0\r\n\r\n",
    "LF behind the last size": b"0\n\r\n",
    "LF behind data": b"1\r\nx\n0\r\n\r\n",
    "LF at the end": b"0\r\n\n",
    "LF behind a trailer": b"0\r\na: b\n\r\n",
    "CR behind a size": b"1\rx\r\n",
    "CR, CR, LF": b"1\r\r\nx\r\n",
    "CR behind data": b"1\r\nx\r0\r\n\r\n",
    # 7.1: chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF.
    "more data than was said": b"1\r\nxy\r\n0\r\n\r\n",
    "less data than was said": b"3\r\nx\r\n0\r\n\r\n",
    "no line end behind data": b"1\r\nx0\r\n\r\n",
    # 7.1.1.
    "an extension without a name": b"1;\r\n",
    "a name that is no token": b"1;a b\r\n",
    "an extension without a value": b"1;a=\r\n",
    "white space behind an extension": b"1;a \r\n",
    "a quoted string that goes on": b'1;a="b"c\r\n',
    "a quoted string without an end": b'1;a="\r\nx\r\n0\r\n\r\n',
    "a line end in a quoted string": b'1;a="\r\n"\r\n',
    "a quoted line end": b'1;a="\\\r\n"\r\n',
    "NUL in an extension": b"1;a\0\r\n",
    "NUL in a quoted string": b'1;a="\0"\r\n',
    "CR in an extension": b"1;a\rb\r\n",
    # 7.1.2 and 5.
    "a trailer that is no field": b"0\r\na\r\n\r\n",
    "a trailer without a name": b"0\r\n: a\r\n\r\n",
    "white space before the colon of a trailer": b"0\r\na : b\r\n\r\n",  # 5.1
    "a trailer that is folded": b"0\r\na: b\r\n c\r\n\r\n",  # 5.2
    "a trailer section that begins with white space": b"0\r\n a: b\r\n\r\n",
    "NUL in a trailer": b"0\r\na: \0\r\n\r\n",  # RFC 9110 5.5
    "CR in a trailer": b"0\r\na: b\rc\r\n\r\n",
    "a control in a trailer": b"0\r\na: \x7f\r\n\r\n",
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_body_is_read_as_the_grammar_says(case: str) -> None:
    octets, data = TAKEN[case]

    assert verdict([octets]) == verdict(cut(octets, range(len(octets)))) == (data, b"")


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_grammar_does_not_say_is_refused(case: str) -> None:
    octets = REFUSED[case]

    assert verdict([octets]) is None
    assert verdict(cut(octets, range(len(octets)))) is None


@pytest.mark.parametrize(
    "octets", [b"\0", b"5;a\0", b"5\rx", b"0\r\na: \0", b"0\r\na: b\rc", b"1\r\nx\rx", b"1\r\nxx"]
)
def test_what_can_become_no_body_is_refused_before_its_line_ends(octets: bytes) -> None:
    assert verdict([octets]) is None


def test_a_refusal_tells_nothing_of_what_came() -> None:
    """A body may be a login: what is wrong with it goes to a log."""
    with pytest.raises(BadChunk) as raised:
        decoded([b"1;secret token\r\n"])

    assert "secret" not in str(raised.value)


# Lines of a given length, their line ends included, and what stands before and behind them.
def _size_line(length: int) -> bytes:
    return b"0" * (length - 3) + b"1\r\nx\r\n0\r\n\r\n"


def _extension_line(length: int) -> bytes:
    return b"1;" + b"a" * (length - 4) + b"\r\nx\r\n0\r\n\r\n"


def _quoted_line(length: int) -> bytes:
    return b'1;a="' + b"\\a" * ((length - 8) // 2) + b"b" * (length % 2) + b'"\r\nx\r\n0\r\n\r\n'


def _trailer_line(length: int) -> bytes:
    return b"1\r\nx\r\n0\r\na:" + b"b" * (length - 4) + b"\r\n\r\n"


LINES = {"size": _size_line, "extension": _extension_line, "quoted": _quoted_line, "trailer": _trailer_line}


def every_way(octets: bytes) -> list[tuple[bytes, bytes | None] | None]:
    """What becomes of a body in one read, in reads of some sizes, and octet by octet."""
    return [verdict(cut(octets, range(0, len(octets), size))) for size in (len(octets), 1460, 100, 1)]


@pytest.mark.parametrize("kind", LINES)
def test_a_line_of_4096_octets_is_taken_and_a_longer_one_refused_whatever_the_reads(kind: str) -> None:
    longest, too_long = LINES[kind](MAX_LINE), LINES[kind](MAX_LINE + 1)

    assert len(too_long) == len(longest) + 1
    assert every_way(longest) == [(b"x", b"")] * 4
    assert every_way(too_long) == [None] * 4


def test_trailers_of_16384_octets_are_taken_and_more_refused_whatever_the_reads() -> None:
    lines = b"a: %b\r\n" % (b"b" * 1019) * 16
    assert len(lines) == MAX_TRAILERS

    assert every_way(b"0\r\n" + lines + b"\r\n") == [(b"", b"")] * 4
    assert every_way(b"0\r\n" + lines + b"a:\r\n\r\n") == [None] * 4


@pytest.mark.parametrize("beginning", [b"0", b"1;", b'1;a="', b"0\r\na:"])
def test_a_line_that_never_ends_is_refused_at_its_bound(beginning: bytes) -> None:
    chunks, fed = Chunks(), 0
    with pytest.raises(BadChunk):
        for octet in beginning + b"0" * 2 * MAX_LINE:
            chunks.decode(bytes([octet]), 0)
            fed += 1

    assert fed <= len(b"0\r\n") + MAX_LINE


def calls(octets: bytes, size: int) -> int:
    """Return how many functions are called, those of regular expressions and octets too, for reads of this size."""
    reads, chunks, count = list(cut(octets, range(0, len(octets), size))), Chunks(), 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        for read in reads:
            chunks.decode(read, 0)
    finally:
        sys.setprofile(before)
    return count


COSTLY = {
    "chunks of one octet": b"1\r\na\r\n",
    "chunks with extensions": b'1;a="\\a\\b";c\r\na\r\n',
    "data full of empty lines": b"8\r\n\r\n\r\n\r\n\r\n\r\n",
}


@pytest.mark.parametrize("size", [1, 7, 4096, 2**20])
@pytest.mark.parametrize("kind", COSTLY)
def test_twice_as_much_costs_twice_as_much(kind: str, size: int) -> None:
    once, twice = (calls(COSTLY[kind] * count, size) for count in (500, 1000))

    assert twice <= 2.1 * once


@pytest.mark.parametrize("kind", COSTLY)
def test_a_body_takes_memory_for_its_data_alone(kind: str) -> None:
    octets = COSTLY[kind] * 20_000
    chunks = Chunks()
    tracemalloc.start()
    try:
        for start in range(0, len(octets), 4096):
            chunks.decode(octets[start : start + 4096], 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2**18  # of some 100 KiB to 400 KiB
