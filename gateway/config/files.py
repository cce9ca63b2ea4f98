"""The files that settings name: where they are, what they hold, and whether everybody can read them."""

import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gateway.config.problems import Keys, Report

_MAX_SECRET_FILE: Final = 64 * 1024
_MAX_KEY_SET_FILE: Final = 1024 * 1024


class Files:
    """Reads the files that the configuration names; what is wrong with one goes into the report."""

    def __init__(self, environment: Mapping[str, str], report: Report) -> None:
        self.configuration = report.places.path
        self._environment = environment
        self._report = report

    def read_secret(self, keys: Keys, name: str) -> str | None:
        """Return the text of a secret's file, without line ends at its end."""
        return self._read(keys, name, _MAX_SECRET_FILE, lambda text: "-----BEGIN" not in text)

    def read_key_set(self, keys: Keys, name: str, *, secret: bool) -> str | None:
        """Return the text of a file with a JWK set; `secret` where it holds secrets and not public keys."""
        return self._read(keys, name, _MAX_KEY_SET_FILE, lambda _: secret)

    def read_pem(self, keys: Keys, name: str) -> tuple[Path, str] | None:
        """Return path and text of a file in PEM form, a private key's too: whoever reads it warns where all can."""
        path, text = self.resolve(keys, name), self._read(keys, name, _MAX_SECRET_FILE, lambda _: False)
        return None if path is None or text is None else (path, text)

    def _read(self, keys: Keys, name: str, most: int, is_secret: Callable[[str], bool]) -> str | None:
        path = self.resolve(keys, name)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                raw = file.read(most + 1)
            text = raw.decode("utf-8-sig")
        except OSError as error:
            self._report.problem(keys, f"{path} can't be read: {error.strerror}")
            return None
        except UnicodeDecodeError:
            self._report.problem(keys, f'{path} is not text; for bytes use format = "B64HMAC", for a certificate PEM')
            return None
        if len(raw) > most:
            self._report.problem(keys, f"{path} is larger than {most} bytes, which no key is")
            return None
        if is_secret(text):
            self.warn_readable(path, "holds a secret")
        return text.rstrip("\r\n")

    def resolve(self, keys: Keys, name: str) -> Path | None:
        """Return the path that is meant; relative ones are relative to the configuration."""

        def expand(match: re.Match[str]) -> str:
            value = self._environment.get(match[1])
            if value is None:
                self._report.problem(
                    keys, f"${{{match[1]}}} is not set in the environment; systemd sets it for a service"
                )
            return value or ""

        known = len(self._report.problems)
        expanded = re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", expand, name)
        if "\0" in expanded:
            self._report.problem(keys, "has a NUL character in it, which no path has")
        return None if len(self._report.problems) > known else (self.configuration.parent / expanded).absolute()

    def warn_readable(self, path: Path, why: str) -> None:
        """Warn where everybody can read the file."""
        try:
            mode = path.stat().st_mode
        except OSError:
            return
        warning = f"{path}: {why} and everybody on this machine can read it; chmod 640 or stricter"
        if mode & stat.S_IROTH and warning not in self._report.warnings:
            self._report.warnings.append(warning)
