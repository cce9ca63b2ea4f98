"""What is wrong with a configuration, in an operator's words: the place, the key, and the fix."""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from pydantic_core import ErrorDetails

# The names of a table, the tables in it, and the key.
Keys: TypeAlias = tuple[str, ...]

# pydantic's words for Python's types, and the words of TOML.
_WORDS: Final = (
    ("^Value error, ", ""),
    ("Input should be a valid", "must be a"),
    ("Input should", "must"),
    ("must be a list", 'must be a list, as in ["..."]'),
    ("must be a integer", "must be a whole number"),
    ("must be a boolean", "must be true or false"),
    ("must be a string", 'must be text in quotes, as in "..."'),
    (r"must be a dictionary( or instance of \w+)?", "must be a table, as in { name = value }"),
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where each key is, as far as plain `[table]` and `key =` lines of the file tell."""

    path: Path
    known: dict[Keys, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, text: str) -> "Places":
        """Note the line of each key of the file."""
        places = cls(path)
        table: Keys = ()
        for number, line in enumerate(text.splitlines(), start=1):
            if header := re.match(r"\s*\[\s*([A-Za-z0-9_.-]+)\s*\]", line):
                table = tuple(header[1].split("."))
                places.known.setdefault(table, f"{path}:{number}")
            elif key := re.match(r"\s*([A-Za-z0-9_.-]+)\s*=", line):
                places.known.setdefault((*table, *key[1].split(".")), f"{path}:{number}")
        return places

    def note(self, keys: Keys, place: str) -> None:
        """Note where a key got its value, and with it the tables that are nowhere else."""
        for length in range(1, len(keys)):
            self.known.setdefault(keys[:length], place)
        self.known[keys] = place

    def line(self, keys: Keys, text: str, position: int | None = None) -> str:
        """Return the line of a report; `position` counts in the list that a key holds, from 1."""
        lengths = range(len(keys), 0, -1)
        place = next((self.known[keys[:length]] for length in lengths if keys[:length] in self.known), str(self.path))
        name = f"[{keys[0]}]" if len(keys) == 1 else f"[{keys[0]}] {'.'.join(keys[1:])}"
        return f"{place}: {name}{'' if position is None else f' {position}'}: {text}"


@dataclass(slots=True)
class Report:
    """All that is wrong or unwise, and which keys are broken: what needs one of them is not judged."""

    places: Places
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    broken: set[Keys] = field(default_factory=set)

    def problem(self, keys: Keys, text: str, position: int | None = None) -> None:
        """Note what is wrong with a key, or with an entry of its list."""
        line = self.places.line(keys, text, position)
        if line not in self.problems:  # pydantic reports each of several types that could have been meant
            self.problems.append(line)

    def warning(self, keys: Keys, text: str) -> None:
        """Note what is unwise about a key."""
        self.warnings.append(self.places.line(keys, text))

    def is_broken(self, table: str, *keys: str) -> bool:
        """Say whether one of the keys, or the whole table, is broken."""
        return (table,) in self.broken or any((table, key) in self.broken for key in keys)


def explanation(details: ErrorDetails, keys: Keys, known: Collection[str]) -> str:
    """Return what pydantic found in plain words; `known` are the keys that could be there."""
    if details["type"] == "extra_forbidden":
        near = difflib.get_close_matches(keys[-1], sorted(known), n=1, cutoff=0.5)
        what = "table" if len(keys) == 1 else "key"
        return f"unknown {what}" + (f"; the nearest known one is {near[0]!r}" if near else "")
    if details["type"] == "missing":
        return "is missing; it has no default"
    message = details["msg"]
    for theirs, ours in _WORDS:
        message = re.sub(theirs, ours, message)
    return message
