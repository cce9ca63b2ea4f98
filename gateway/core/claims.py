"""Where a claim stands in a token: by its name, or by a path such as `user.name`."""

from typing import Any


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
