"""What every settings class is: closed, strict about types, and unchangeable.

A settings class lives beside the code that obeys it; `config` only builds them.
"""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of the configuration, or a part of one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
