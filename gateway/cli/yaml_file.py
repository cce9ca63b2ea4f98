"""YAML files of the homeserver, read as it reads them itself."""

from pathlib import Path
from typing import Any, Final

import yaml

from gateway.errors import ConfigurationError

# All that PyYAML raises, also for a value that its own tag does not fit, such as `!!int ""`.
_NOT_YAML: Final = (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError, TypeError, OverflowError)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys at the top of a file; raises `ConfigurationError`."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError([f"{path}: can't be read: {error.strerror}"]) from None
    except _NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "a value does not fit"
        raise ConfigurationError([f"{place}: not YAML: {problem}"]) from None
    if not isinstance(value, dict):
        raise ConfigurationError([f"{path}: has no keys at its top, so it is another file"])
    return value
