"""The files that commands write: the commented configuration and the application service registration."""

import hashlib
import re
from pathlib import Path

import toml

from gateway.core.identity import SENDER_LOCALPART

_PACKAGE = Path(__file__).parent.parent


def example_configuration(server_name: str, homeserver_url: str) -> str:
    """Return the commented example with this server name and homeserver."""
    packaged = _PACKAGE / "gateway.example.toml"
    source = packaged if packaged.is_file() else _PACKAGE.parent / "config" / "gateway.example.toml"
    text = source.read_text(encoding="utf-8")
    for key, value in (("server_name", server_name), ("url", homeserver_url)):
        line = toml.dumps({key: value}).rstrip("\n")
        text = re.sub(rf"^{key} = .*$", line.replace("\\", r"\\"), text, count=1, flags=re.MULTILINE)
    return text


def registration_yaml(as_token: str, server_name: str) -> str:
    """Return the registration file (application service specification, 'Registration').

    The hs_token is derived: the same as_token gives the same file. Nothing is ever sent with it (`url: null`).
    """
    hs_token = hashlib.sha256(b"hs_token of " + as_token.encode()).hexdigest()
    server = re.escape(server_name).replace("'", "''")
    return f"""\
# Application service registration of matrix-login-gateway.
# Whoever holds the as_token can log in as any user of this server: keep this file as safe as the database.
id: matrix-login-gateway
url: null
as_token: '{as_token.replace("'", "''")}'
hs_token: '{hs_token}'
sender_localpart: {SENDER_LOCALPART}
rate_limited: false
namespaces:
  users:
    - exclusive: false
      regex: '^@.*:{server}$'
  aliases: []
  rooms: []
"""
