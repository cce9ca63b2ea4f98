"""The template that makes a localpart of claims, and the regular expressions of the configuration: text to parts."""

import re
import warnings
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BeforeValidator

# A claim's name ends at the colon before the expression; a colon before `//` belongs to a name that is a URL.
_CLAIM_NAME: Final = re.compile(r"(?:[^{}:]|:(?=//))+")


@dataclass(frozen=True, slots=True)
class ClaimPart:
    """A part of a template that a claim fills: the whole value, or the first group of `expression`."""

    claim: str
    expression: re.Pattern[str] | None


Template = tuple[str | ClaimPart, ...]


def parse_template(text: str) -> Template:
    """Read `literal{claim}{claim:regex}`; raises ValueError with what is wrong and where."""
    parts: list[str | ClaimPart] = []
    position = 0
    while position < len(text):
        opening = text.find("{", position)
        literal = text[position:] if opening < 0 else text[position:opening]
        if "}" in literal:
            raise ValueError("a } without its {")
        if literal:
            parts.append(literal)
        if opening < 0:
            break
        part, position = _parse_claim_part(text, opening + 1)
        parts.append(part)
    if not any(isinstance(part, ClaimPart) for part in parts):
        raise ValueError("it names no claim, so that everybody would be the same user; write {sub}")
    return tuple(parts)


def _parse_claim_part(text: str, start: int) -> tuple[ClaimPart, int]:
    name = _CLAIM_NAME.match(text, start)
    if name is None:
        raise ValueError("a { without the name of a claim behind it")
    if text[name.end() : name.end() + 1] == "}":
        return ClaimPart(name[0], None), name.end() + 1
    end = _closing_brace(text, name.end() + 1)
    source = text[name.end() + 1 : end]
    expression = _compiled(source)
    if expression.groups == 0:
        raise ValueError(f"{source!r} has no group; put the part to take in parentheses")
    return ClaimPart(name[0], expression), end + 1


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] in "{}":
            depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return position
        position += 1
    raise ValueError("a { without its }")


def _compiled(source: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # what a later Python will read otherwise
            return re.compile(source)
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        raise ValueError(f"{source[:80]!r} is not a regular expression: {error}") from None


def _expression(value: object) -> re.Pattern[str]:
    if not isinstance(value, str):
        raise ValueError("must be a regular expression in quotes")
    return _compiled(value)


Expression = Annotated[re.Pattern[str], BeforeValidator(_expression)]
