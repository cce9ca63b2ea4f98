"""The cases of tests/token_attacks/*.toml: tokens that are wrong in one way, and the answer that each gets.

Members of a case, all but `name` optional:
- `header`, `payload`: their text (`header_hex`, `payload_hex`: their octets); without, an ordinary one;
- `secret`: what signs them with HS256, the gateway's own unless given;
- `token`: how the parts are put together: {header}, {payload}, {signature}, {half} of it, {spare_bits} (the
  signature with another last character that decodes to the same octets);
- `jwt`: keys of that table;
- one of `answer` (the text of a 403 M_FORBIDDEN), `invalid_username` (that of a 400 M_INVALID_USERNAME) and `user`
  (the token is good, and makes this user).
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.signing import sign

FOLDER: Final = Path(__file__).parent / "token_attacks"
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass(frozen=True)
class Case:
    """One token, and what a gateway with these `jwt` keys says to it."""

    name: str
    token: str
    jwt: dict[str, Any]
    user: str | None
    status: int
    body: dict[str, str]

    def __str__(self) -> str:
        return self.name


def read_cases(secret: str) -> list[Case]:
    """Return all cases, those that are not to be forged signed with `secret`."""
    cases = []
    for path in sorted(FOLDER.glob("*.toml")):
        file = tomllib.loads(path.read_text(encoding="utf-8"))
        cases += [_case(path.stem, members, secret) for members in file["case"]]
        cases += [
            _case(path.stem, _with_date(name, value), secret)
            for value in file.get("values", [])
            for name in ("exp", "nbf", "iat")
        ]
    return cases


def _with_date(name: str, value: str) -> dict[str, Any]:
    return {
        "name": f"{name} is {value}",
        "payload": f'{{"sub": "alice", "{name}": {value}}}',
        "answer": f"JWT validation failed: invalid_claim: Invalid claim '{name}'",
    }


def _case(file: str, members: dict[str, Any], secret: str) -> Case:
    case = dict(members)
    name = f"{file}: {case.pop('name')}"
    header = _octets(case, "header", '{"alg": "HS256"}')
    payload = _octets(case, "payload", '{"sub": "alice"}')
    token = _joined(case.pop("token", None), sign(header, payload, case.pop("secret", secret)))
    jwt = case.pop("jwt", {})
    ((kind, text),) = case.items()  # what is left is the answer, and only that
    if kind == "user":
        return Case(name, token, jwt, text, 200, {})
    status, errcode = {"answer": (403, "M_FORBIDDEN"), "invalid_username": (400, "M_INVALID_USERNAME")}[kind]
    return Case(name, token, jwt, None, status, {"errcode": errcode, "error": text})


def _octets(case: dict[str, Any], name: str, default: str) -> bytes:
    if f"{name}_hex" in case:
        return bytes.fromhex(case.pop(f"{name}_hex"))
    text: str = case.pop(name, default)
    return text.encode()


def _joined(form: str | None, token: str) -> str:
    if form is None:
        return token
    header, payload, signature = token.split(".")
    spare = signature[:-1] + _ALPHABET[_ALPHABET.index(signature[-1]) ^ 1]
    parts = {
        "header": header,
        "payload": payload,
        "signature": signature,
        "half": signature[:20],
        "spare_bits": spare,
    }
    for name, value in parts.items():
        form = form.replace(f"{{{name}}}", value)
    return form
