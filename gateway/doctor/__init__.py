"""What a set-up is worth: each finding passes, warns or fails, with the mend.

Rule: no question changes anything, and none makes an account or a session on any homeserver.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one part; `mend` says what to do unless it passes."""

    name: str
    verdict: Verdict
    says: str
    mend: str = ""
