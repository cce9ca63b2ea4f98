"""What the soak counts: exchanges that went as planned, and whatever did not, with examples."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

_EXAMPLES = 5


@dataclass
class Tally:
    """`done` by what was planned; the others are faults of the gateway, of which some are described."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    octets: int = 0

    def wrong_octets(self, what: str) -> None:
        self._add("octets", what)

    def wrong_answer(self, what: str) -> None:
        self._add("answers", what)

    def hanging(self, what: str) -> None:
        self._add("hanging", what)

    def _add(self, kind: str, what: str) -> None:
        self.wrong[kind] += 1
        if self.wrong[kind] <= _EXAMPLES:
            self.examples.append(f"{kind}: {what}")


def differ(name: str, found: bytes, wanted: bytes) -> str:
    """Say where octets differ."""
    place = next((place for place, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), -1)
    return f"{name}: {len(found)} octets for {len(wanted)}, first difference at {place}"


async def in_pieces(
    octets: bytes, chance: random.Random, write: Callable[[bytes], Awaitable[None]], *, slow: bool
) -> None:
    """Write octets in some pieces, small ones at first; slowly with pauses between a few of them."""
    start, pauses = 0, 5 if slow else 0
    while start < len(octets):
        size = (
            chance.choice((1, 7, 100, 5000)) if start < 2000 and chance.random() < 0.3 else chance.randint(1, 2**18)
        )
        await write(octets[start : start + size])
        start += size
        if pauses:
            pauses -= 1
            await asyncio.sleep(0.02)
