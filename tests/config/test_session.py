"""`[session]`: each method has what it needs, and nothing of another one."""

import base64
import json
from pathlib import Path

import pytest

from tests.test_config import AS_TOKEN, SECRET, problems, read

HEAD = """\
[homeserver]
url = "http://127.0.0.1:8008"
server_name = "example.org"
"""
TAIL = f"""
[jwt]
secret = "{SECRET}"
issuer = "https://id.example"
require_exp = true
"""
HIDDEN = "the secret of the homeserver, of 32 bytes or more"
JWT = f'method = "jwt"\njwt_secret = "{HIDDEN}"\n'
MAS = f'method = "mas"\nmas_url = "http://127.0.0.1:8081"\nmas_client_id = "01"\nmas_client_secret = "{HIDDEN}"\n'


def session(keys: str, rest: str = "") -> str:
    return f"{HEAD}[session]\n{keys}{TAIL}{rest}"


@pytest.mark.parametrize("keys", [JWT, MAS])
def test_a_method_with_its_secret_is_enough_and_nothing_shows_it(tmp_path: Path, keys: str) -> None:
    configuration = read(tmp_path, session(keys))

    assert (configuration.session_secret, configuration.as_token) == (HIDDEN, "")
    assert configuration.warnings == ()
    assert HIDDEN not in repr(configuration)
    assert configuration.profile.avatar == "never"


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "s").write_text(HIDDEN + "\n")
    (tmp_path / "s").chmod(0o600)

    assert read(tmp_path, session('method = "jwt"\njwt_secret_file = "s"\n')).session_secret == HIDDEN
    assert read(tmp_path, session('method = "jwt"\njwt_secret_file = "s"\n')).warnings == ()


def test_an_as_token_goes_with_every_method(tmp_path: Path) -> None:
    for keys in (JWT, MAS):
        configuration = read(tmp_path, session(keys + f'as_token = "{AS_TOKEN}"\n'))
        assert configuration.as_token == AS_TOKEN
        assert configuration.profile.avatar == "first_login"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            'method = "jwt"\n',
            '[session]: there is no jwt_secret; method = "jwt" needs the secret that the homeserver',
        ),
        (MAS.replace("mas_client_secret", "#"), '[session]: there is no mas_client_secret; method = "mas" needs'),
        (MAS.replace("mas_url", "#"), '[session] mas_url: is missing; method = "mas" needs it: the address of the'),
        (MAS.replace("mas_client_id", "#"), "[session] mas_client_id: is missing"),
        (MAS.replace("8081", "8081/path"), "[session] mas_url: only scheme, host and port belong here"),
        (MAS + 'mas_oauth_url = "auth"\n', "[session] mas_oauth_url: write http://HOST:PORT"),
        (MAS + "mas_expires_in = -1\n", "[session] mas_expires_in: must be greater than or equal to 0"),
        (
            MAS + 'jwt_issuer = "x"\n',
            '[session] jwt_issuer: is for method = "jwt"; the method here is "mas"',
        ),
        (
            f'as_token = "{AS_TOKEN}"\nmas_url = "http://x"\n',
            '[session] mas_url: is for method = "mas"; the method here is "appservice"',
        ),
        (JWT + 'jwt_algorithm = "RS256"\n', "[session] jwt_algorithm: must be 'HS256', 'HS384' or 'HS512'"),
        (JWT + 'jwt_subject_claim = "exp"\n', "[session] jwt_subject_claim: the token has exp for something else"),
        (JWT + 'jwt_secret_file = "x"\n', "jwt_secret_file: is set together with `jwt_secret`; keep one of the two"),
        ('method = "jwt"\njwt_secret = ""\n', "[session] jwt_secret: it is empty"),
        ('method = "jwt"\njwt_secret_file = "none"\n', "none can't be read: No such file or directory"),
        ('method = "password"\n', "[session] method: must be 'appservice', 'jwt' or 'mas'"),
    ],
)
def test_what_is_missing_or_another_methods_is_one_clear_line(tmp_path: Path, keys: str, expected: str) -> None:
    (problem,) = problems(tmp_path, session(keys))

    assert expected in problem
    assert HIDDEN not in problem


def test_refuse_needs_an_as_token_where_only_it_can_see_every_user(tmp_path: Path) -> None:
    refuse = '[identity]\nexisting_accounts = "refuse"\n'
    (problem,) = problems(tmp_path, session(JWT, refuse))

    assert '[identity] existing_accounts: "refuse" with method = "jwt" needs an as_token' in problem
    for keys in (JWT + f'as_token = "{AS_TOKEN}"\n', MAS):
        read(tmp_path, session(keys, refuse))


def test_refuse_of_one_issuer_needs_it_too(tmp_path: Path) -> None:
    issuer = f'[[jwt.issuers]]\nissuer = "x"\nsecret = "{SECRET}"\nidentity = {{ existing_accounts = "refuse" }}\n'
    text = session(JWT, issuer).replace('issuer = "https://id.example"\n', "")
    (problem,) = problems(tmp_path, text)

    assert "needs an as_token in [session]" in problem


@pytest.mark.parametrize(
    ("keys", "claims", "warned"),
    [
        (JWT, 'display_name_claim = "name"\navatar_claim = "p"\n', ["display_name_claim", "avatar_claim"]),
        (MAS, 'display_name_claim = "name"\n', ["display_name_claim"]),
        (JWT + 'jwt_display_name_claim = "name"\n', 'display_name_claim = "name"\n', []),
        (MAS + f'as_token = "{AS_TOKEN}"\n', 'display_name_claim = "name"\n', []),
    ],
)
def test_claims_that_nobody_can_set_are_warned_of(tmp_path: Path, keys: str, claims: str, warned: list[str]) -> None:
    warnings = read(tmp_path, session(keys, claims)).warnings

    for claim in ("display_name_claim", "avatar_claim"):
        told = [line for line in warnings if f"[jwt] {claim}: does nothing without an as_token" in line]
        assert len(told) == (claim in warned)


def test_an_account_that_the_homeserver_makes_again_is_warned_of(tmp_path: Path) -> None:
    (warning,) = read(tmp_path, session(JWT, "register_user = false")).warnings
    assert "[jwt] register_user: is false, and without an as_token in [session] the homeserver makes" in warning


def test_a_short_secret_of_the_homeserver_is_taken_with_a_warning(tmp_path: Path) -> None:
    (warning,) = read(tmp_path, session(JWT.replace(HIDDEN, "short"))).warnings

    assert "jwt_secret: 5 bytes are short for HS256" in warning


def test_nothing_is_needed_where_jwt_login_is_off(tmp_path: Path) -> None:
    for method in ("jwt", "mas"):
        read(tmp_path, session(f'method = "{method}"\n', "enable = false\n"))


SHARED = "the two have this one secret, of 32 bytes or more"
OCTETS = base64.b64encode(SHARED.encode()).decode()
OCT = {"kty": "oct", "k": base64.urlsafe_b64encode(SHARED.encode()).rstrip(b"=").decode(), "kid": "a"}
OTHER = {"kty": "oct", "k": "A" * 64, "kid": "b"}
ISSUER = 'issuer = "https://id.example"\nrequire_exp = true\n'
HOLDERS = {
    "HMAC": f'[jwt]\nsecret = "{SHARED}"\n{ISSUER}',
    "a list": f'[jwt]\nsecret = ["{SECRET}", "{SHARED}"]\n{ISSUER}',
    "a file": f'[jwt]\nsecret_file = "s"\n{ISSUER}',
    "B64HMAC": f'[jwt]\nformat = "B64HMAC"\nsecret = "{OCTETS}"\n{ISSUER}',
    "HMACB64, URL alphabet": f'[jwt]\nformat = "HMACB64"\nsecret = "{OCTETS.rstrip("=")}"\n{ISSUER}',
    "JWKS": f'[jwt]\nformat = "JWKS"\njwks_file = "set.json"\nalgorithm = "HS256"\n{ISSUER}',
    "one of several issuers": (
        f'[[jwt.issuers]]\nsecret = "{SECRET}"\n{ISSUER}[[jwt.issuers]]\nissuer = "x"\nsecret = "{SHARED}"\n'
    ),
    "what two issuers take from [jwt]": f'[jwt]\nsecret = "{SHARED}"\n[[jwt.issuers]]\n{ISSUER}',
}


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("tokens", HOLDERS.values(), ids=HOLDERS)
def test_the_homeservers_secret_is_no_key_of_identity_tokens(tmp_path: Path, tokens: str, *, in_file: bool) -> None:
    for name, text in (("s", SHARED + "\n"), ("set.json", json.dumps({"keys": [OTHER, OCT]}))):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    key = 'jwt_secret_file = "s"' if in_file else f'jwt_secret = "{SHARED}"'
    (problem,) = problems(tmp_path, f'{HEAD}[session]\nmethod = "jwt"\n{key}\n{tokens}')

    assert f"[session] {key.partition(' ')[0]}: is a key that verifies the tokens of [" in problem
    assert "give the homeserver's JWT login a secret of its own" in problem
    assert SHARED not in problem


@pytest.mark.parametrize(
    "tokens",
    [
        f'[jwt]\nsecret = "{OCTETS}"\n{ISSUER}',
        f'[jwt]\nformat = "B64HMAC"\nsecret = "{base64.b64encode(OCTETS.encode()).decode()}"\n{ISSUER}',
        f'[jwt]\nsecret = "{SHARED} "\n{ISSUER}',
        f'[jwt]\nenable = false\nsecret = "{SHARED}"\n{ISSUER}',
    ],
)
def test_another_secret_is_its_own(tmp_path: Path, tokens: str) -> None:
    assert (
        read(tmp_path, f'{HEAD}[session]\nmethod = "jwt"\njwt_secret = "{SHARED}"\n{tokens}').session_secret == SHARED
    )


def test_zeros_make_no_other_secret_of_one(tmp_path: Path) -> None:
    padded = base64.b64encode(SHARED.encode() + b"\0\0").decode()
    tokens = f'[jwt]\nformat = "B64HMAC"\nsecret = "{padded}"\n{ISSUER}'

    assert len(problems(tmp_path, f'{HEAD}[session]\nmethod = "jwt"\njwt_secret = "{SHARED}"\n{tokens}')) == 1
