"""What every settings class is: closed, strict about types, and unchangeable.

A settings class lives beside the code that obeys it; `config` only builds them.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Table(BaseModel):
    """A table of the configuration, or a part of one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _as_list(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise ValueError('must be text in quotes, as in "...", or a list of such')
    return [value] if isinstance(value, str) else value


OneOrMore = Annotated[list[str], BeforeValidator(_as_list)]
