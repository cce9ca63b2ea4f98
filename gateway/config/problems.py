"""What is wrong with a configuration, in an operator's words: the place, the key, and the fix."""

import difflib
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from pydantic_core import ErrorDetails

# The names of a table, the tables in it, and the key; a table of a list has its place in it, from 1.
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
        entry: Keys = ()  # of a list of tables
        count: Counter[Keys] = Counter()
        for number, line in enumerate(text.splitlines(), start=1):
            if header := re.match(r"\s*(\[\[?)\s*([A-Za-z0-9_.-]+)\s*\]", line):
                table = tuple(header[2].split("."))
                if header[1] == "[[":
                    count[table] += 1
                    table = entry = (*table, str(count[table]))
                elif entry and table[: len(entry) - 1] == entry[:-1]:
                    table = (*entry, *table[len(entry) - 1 :])
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
        return f"{place}: {name_of(keys)}{'' if position is None else f' {position}'}: {text}"


def name_of(keys: Keys) -> str:
    """Return what the file calls a table, or a key in one, such as `[jwt] secret` or `[[jwt.issuers]] 2`."""
    table, key = f"[{keys[0]}]", keys[1:]
    for length, part in enumerate(keys):
        if part.isdigit():
            table, key = f"[[{'.'.join(keys[:length])}]] {part}", keys[length + 1 :]
            break
    return " ".join(part for part in (table, ".".join(key)) if part)


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
        """Note what is unwise about a key, once where several issuers take it from one place."""
        line = self.places.line(keys, text)
        if line not in self.warnings:
            self.warnings.append(line)

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
