"""Where a claim stands in a token, by its name or by a path such as `user.name`; and what can be kept of one."""

from typing import Any, Final

# PostgreSQL takes a key of 2704 bytes, and ours have two parts. OpenID Connect Core 2 allows a `sub` 255.
MAX_KEY_BYTES: Final = 1000


def find_claim(claims: dict[str, Any], path: str) -> Any:
    """Return the value of the claim at `path`, or None.

    A claim whose whole name is `path` comes first: names that are URLs hold dots (`https://example.org/name`).
    """
    if path in claims:
        return claims[path]
    for position, character in enumerate(path):
        if character == ".":
            inner = claims.get(path[:position])
            if isinstance(inner, dict):
                value = find_claim(inner, path[position + 1 :])
                if value is not None:
                    return value
    return None


def is_storable(text: str) -> bool:
    """Say whether any database can keep a text as a part of a key: PostgreSQL has no NUL in its texts."""
    return len(text.encode("utf-8", "replace")) <= MAX_KEY_BYTES and "\0" not in text
