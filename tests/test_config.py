"""The configuration: every problem in one report with its place and mend, and an example that never goes stale."""

import ast
import json
import re
import sys
import tomllib
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import OctKey
from pydantic import BaseModel
from sqlalchemy import make_url

from gateway.config import ALLOW_UNSIGNED, Configuration, Settings, load
from gateway.core.accounts import AccountRules
from gateway.errors import ConfigurationError

EXAMPLE = Path(__file__).parent.parent / "config" / "gateway.example.toml"
AS_TOKEN = "0123456789abcdef0123456789abcdef"
SECRET = "a secret of at least thirty-two bytes"
BASE = f"""\
[homeserver]
url = "http://127.0.0.1:8008"
server_name = "example.org"
[session]
as_token = "{AS_TOKEN}"
[jwt]
"""
GOOD = BASE + f'secret = "{SECRET}"\n'


def read(directory: Path, text: str | bytes, **environment: str) -> Configuration:
    path = directory / "gateway.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return load(path, environment)


def problems(directory: Path, text: str | bytes, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(directory, text, **environment)
    return [problem.replace(f"{directory}/", "") for problem in caught.value.problems]


def secrets(configuration: Configuration) -> list[str]:
    """The HMAC secrets that verify."""
    keys = configuration.issuers[0].key_set.candidates("HS256")
    return [key.raw_value.decode() for key in keys if isinstance(key, OctKey)]


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    configuration = read(tmp_path, GOOD)

    assert configuration.settings.server.listen == ["127.0.0.1:8010"]
    assert configuration.as_token == AS_TOKEN
    assert configuration.settings.database.url == f"sqlite:///{tmp_path}/gateway.db"
    assert configuration.issuers[0].account_rules == AccountRules(register_user=True, existing_accounts="link")
    assert SECRET not in repr(configuration)
    assert AS_TOKEN not in repr(configuration)


def test_every_problem_stands_in_one_report_with_its_line(tmp_path: Path) -> None:
    text = """\
[server]
listen = ["nowhere"]
drain_tmeout = 3
[homeserver]
url = "http://127.0.0.1:8008/path"
[session]
as_token_file = "missing"
[jwt]
leeway = "60"
secret_file = "missing too"
[database]
url = "mysql://x/y"
[idntity]
"""
    assert problems(tmp_path, text) == [
        "gateway.toml:2: [server] listen: write HOST:PORT, [::1]:PORT or unix:/PATH",
        "gateway.toml:3: [server] drain_tmeout: unknown key; the nearest known one is 'drain_timeout'",
        "gateway.toml:5: [homeserver] url: only scheme, host and port belong here: paths are kept as clients send them",  # noqa: E501 - as printed
        "gateway.toml:4: [homeserver] server_name: is missing; it has no default",
        "gateway.toml:9: [jwt] leeway: must be a whole number",
        "gateway.toml:12: [database] url: neither SQLite nor PostgreSQL; write sqlite:///FILE or postgresql://USER@HOST/NAME",
        "gateway.toml:13: [idntity]: unknown table; the nearest known one is 'identity'",
        "gateway.toml:10: [jwt] secret_file: missing too can't be read: No such file or directory",
        "gateway.toml:7: [session] as_token_file: missing can't be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BASE + "leeway = true\n" + f'secret = "{SECRET}"\n', "gateway.toml:7: [jwt] leeway: must be a whole number"),
        (GOOD + 'enable = "yes"\n', "gateway.toml:8: [jwt] enable: must be true or false"),
        (GOOD + "required_claims = 3\n", "must be a table, as in { name = value }"),
        (GOOD + 'format = "JWT"\n', "[jwt] format: must be 'HMAC', 'B64HMAC', 'ECDSA', 'RSA', 'EDDSA' or 'JWKS'"),
        (GOOD + 'algorithm = "RS256"\n', "'RS256' does not belong to format 'HMAC'; use one of HS256, HS384, HS512"),
        (GOOD + "algorithm = []\n", "algorithm: the list is empty"),
        (
            GOOD + f'secret_file = "{EXAMPLE}"\n',
            "[jwt] secret_file: is set together with `secret`; keep one of the two",
        ),
        (GOOD + "validate_signature = false\n", f"set {ALLOW_UNSIGNED}=1 in the environment"),
        (GOOD.replace('"example.org"', '""'), "[homeserver] server_name: not a server name; write it as in user ids"),
        (GOOD.replace('"example.org"', '"https://Example.org/"'), "server_name: not a server name"),
        (GOOD.replace('"example.org"', '"bad name!!"'), "server_name: not a server name"),
        (BASE, "[jwt] secret: there is none; set `secret` or `secret_file`"),
        (BASE + 'secret = ""\n', "it is empty"),
        (BASE + 'secret = "short"\n', "[jwt] secret: 5 bytes are too short for HS256"),
        (BASE + f'secret = ["{SECRET}", "short"]\n', "[jwt] secret 2: 5 bytes are too short for HS256"),
        (BASE + 'secret_file = "."\n', "can't be read: Is a directory"),
        (BASE + 'secret_file = "${CREDENTIALS_DIRECTORY}/x"\n', "${CREDENTIALS_DIRECTORY} is not set"),
        (GOOD.replace(AS_TOKEN, "two words"), "must be one word of printable ASCII characters"),
        (GOOD + '[database]\nurl = "sqlite:///none/x.db"\n', "there is no directory"),
        (GOOD + '[identity]\nlocalpart = "x"\n', "it names no claim"),
        (GOOD + '[identity]\ndeny = ["("]\n', "'(' is not a regular expression"),
        (GOOD + '[server]\ntrusted_proxies = ["10.0.0.1/8"]\n', "not a network such as 127.0.0.0/8"),
        (
            GOOD + "[server]\ntrusted_proxies = [3]\n",
            'trusted_proxies 1: must be a network in quotes, as in "127.0.0.0/8"',
        ),
        (
            GOOD + '[server]\nvia = "a b"\n',
            "[server] via: must be one word of letters, digits and !#$%&'*+-.^_`|~, such as",
        ),
        (GOOD + '[server]\nlisten = ["127.0.0.1:99999"]\n', "listen: there is no port 99999; use 1 to 65535, or 0"),
        (GOOD + 'audience = ["a", 2]\n', '[jwt] audience 2: must be text in quotes, as in "..."'),
        (BASE + "secret = 3\n", '[jwt] secret: must be text in quotes, as in "...", or a list of such'),
        (GOOD + '[identity]\ndeny = ["a", 2]\n', "[identity] deny 2: must be a regular expression in quotes"),
        (GOOD + "required_claims = { groups = 1.5 }\n", "'groups' needs text, a whole number, true or false"),
        (GOOD + "leeway = " + "9" * 30 + "\n", "must be less than or equal to 9007199254740992"),
        (GOOD + "[server]\ndrain_timeout = inf\n", "must be a finite number"),
        (GOOD + "[server]\ndrain_timeout = nan\n", "must be a finite number"),
        (GOOD + f'key = "{SECRET}"\n', "[jwt] key: is set together with `secret`"),
        (
            GOOD.replace("as_token =", "as_token_file = 'x'\nas_token ="),
            "as_token_file: is set together with `as_token`",
        ),
        (GOOD.replace(f'as_token = "{AS_TOKEN}"', ""), "there is no as_token; `matrix-login-gateway init` makes one"),
        (BASE + 'secret_file = "a\\u0000b"\n', "has a NUL character in it"),
        (BASE + 'secret_file = "/dev/zero"\n', "is larger than 65536 bytes"),
        (BASE + f'secret_file = "{"x" * 5000}"\n', "can't be read: File name too long"),
        (GOOD + f'[database]\nurl = "sqlite:///{"x" * 5000}/x.db"\n', "there is no directory"),
        (GOOD + '[database]\nurl = "sqlite:///x\\u0000.db"\n', "has a NUL character in it"),
        (
            GOOD + '[database]\nurl = "postgresql://h/x?sslmode=on"\n',
            "[database] url: the option 'sslmode' must be one",
        ),
        (GOOD + "[database]\npool_size = 0\n", "[database] pool_size: must be greater than or equal to 1"),
        (
            GOOD + '[database]\nurl = "postgresql://u:p@localhost/x"\npassword_file = "x"\n',
            "[database] password_file: is set together with a password in `url`",
        ),
        (
            GOOD + '[database]\nurl = "postgresql://localhost/x"\npassword_file = "none"\n',
            "[database] password_file: none can't be read",
        ),
        (
            GOOD + '[database]\nurl = "postgresql://localhost/x"\npassword_file = "/dev/null"\n',
            "[database] password_file: the file is empty",
        ),
        (
            GOOD + '[database]\nurl = "postgresql://localhost/x?sslmode=verify-full&sslrootcert=none"\n',
            "[database] url: none can't be read",
        ),
        (GOOD + '[identity]\nallow = ["a{99999999999999}"]\n', "is not a regular expression"),
        ("jwt = 3\n" + GOOD.replace("[jwt]\nsecret", "#"), "[jwt]: must be a table, as in { name = value }"),
        (GOOD + "leeway = " + "9" * 5000, "not TOML: "),
        (GOOD + "x = " + "[" * 5000, "not TOML: "),
        (GOOD + "leeway = 1\nleeway = 2\n", "not TOML: "),
        ("nonsense", "not TOML: "),
        (b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_a_problem_names_its_mend_and_no_secret(tmp_path: Path, text: str | bytes, expected: str) -> None:
    (problem,) = problems(tmp_path, text)

    assert expected in problem
    assert SECRET not in problem
    assert AS_TOKEN not in problem


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        load(tmp_path / name, {})


def test_secrets_come_from_files_beside_the_configuration_or_of_systemd(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (tmp_path / "a").write_text(SECRET + "\n")
    (credentials / "b").write_text(SECRET[::-1] + "\r\n")
    (credentials / "as_token").write_text(AS_TOKEN + "\n")
    text = BASE.replace(f'as_token = "{AS_TOKEN}"', 'as_token_file = "${CREDENTIALS_DIRECTORY}/as_token"')

    configuration = read(
        tmp_path,
        text + 'secret_file = ["a", "${CREDENTIALS_DIRECTORY}/b"]\n',
        CREDENTIALS_DIRECTORY=str(credentials),
    )

    assert secrets(configuration) == [SECRET, SECRET[::-1]]
    assert configuration.as_token == AS_TOKEN


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("JWT__LEEWAY", "5", {"leeway": 5}),
        ("JWT__REQUIRE_EXP", "true", {"require_exp": True}),
        ("JWT__AUDIENCE", '["a", "b"]', {"audience": ["a", "b"]}),
        (
            "JWT__SECRET",
            "0123456789012345678901234567890123456789",
            {"secret": ["0123456789012345678901234567890123456789"]},
        ),
        ("JWT__SUBJECT_CLAIM", "5", {"subject_claim": "5"}),
        ("JWT__SECRET", "true-" * 8, {"secret": ["true-" * 8]}),
        ("JWT__KEY", "1" * 40, {"secret": ["1" * 40]}),
        ("jwt__secret".upper(), "[" * 40, {"secret": ["[" * 40]}),
        ("JWT__AUDIENCE", "a", {"audience": ["a"]}),
        ("JWT__ALGORITHM", '["HS256"]', {"algorithm": ["HS256"]}),
        ("JWT__FORMAT", "HMAC", {"format": "HMAC"}),
        ("JWT__REQUIRED_CLAIMS", '{ groups = ["a"] }', {"required_claims": {"groups": ["a"]}}),
        ("JWT__REQUIRED_CLAIMS__LEVEL", "5", {"required_claims": {"level": 5}}),
    ],
)
def test_any_key_can_come_from_the_environment(
    tmp_path: Path, name: str, value: str, expected: dict[str, Any]
) -> None:
    configuration = read(tmp_path, GOOD, **{f"MATRIX_LOGIN_GATEWAY__{name}": value})

    assert expected.items() <= configuration.settings.jwt.model_dump().items()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("JWT__LEWAY", "5", "[jwt] leway: unknown key; the nearest known one is 'leeway'"),
        ("JTW__LEEWAY", "5", "[jtw]: unknown table; the nearest known one is 'jwt'"),
        ("JWT__LEEWAY", "60s", "[jwt] leeway: must be a whole number"),
        ("JWT__LEEWAY", "1\nenable = false", "[jwt] leeway: must be a whole number"),
        ("JWT", "x", "[jwt]: must be a table, as in { name = value }"),
        ("", "x", "names no key; write MATRIX_LOGIN_GATEWAY__TABLE__KEY"),
        ("JWT__", "x", "names no key; write MATRIX_LOGIN_GATEWAY__TABLE__KEY"),
        ("JWT__LEEWAY__X", "5", "names no key; write MATRIX_LOGIN_GATEWAY__TABLE__KEY"),
        ("HOMESERVER__SERVER_NAME", "\udcff", "not UTF-8 text"),
    ],
)
def test_a_problem_in_the_environment_names_the_variable(
    tmp_path: Path, name: str, value: str, expected: str
) -> None:
    variable = f"MATRIX_LOGIN_GATEWAY__{name}"

    assert f"environment {variable}: {expected}" in problems(tmp_path, GOOD + "leeway = 5\n", **{variable: value})


def test_a_secret_of_the_environment_stands_for_that_of_the_file_also_by_its_other_name(tmp_path: Path) -> None:
    other = SECRET[::-1]
    configuration = read(tmp_path, BASE + 'key = "short"\n', MATRIX_LOGIN_GATEWAY__JWT__SECRET=other)

    assert secrets(configuration) == [other]


def test_a_problem_with_the_other_name_of_the_secret_has_its_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, BASE + "\nkey = 5\n")

    assert problem.startswith("gateway.toml:8: [jwt] secret: must be ")


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbf" + SECRET.encode() + b"\r\n")

    configuration = read(tmp_path, b"\xef\xbb\xbf" + BASE.encode() + b'secret_file = "secret"\n')

    assert secrets(configuration) == [SECRET]


def test_a_key_file_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff" * 40)

    assert "is not text; for bytes use format" in problems(tmp_path, BASE + 'secret_file = "secret"\n')[0]


def test_tables_may_be_written_in_any_way_that_toml_has(tmp_path: Path) -> None:
    text = f"""\
homeserver = {{ url = "http://127.0.0.1:8008", server_name = "example.org" }}
session.as_token = "{AS_TOKEN}"
jwt.secret = "{SECRET}"
jwt.leway = 3
"""
    assert problems(tmp_path, text) == ["gateway.toml:4: [jwt] leway: unknown key; the nearest known one is 'leeway'"]


def test_a_question_mark_in_the_directory_is_reported(tmp_path: Path) -> None:
    directory = tmp_path / "what?"
    directory.mkdir()

    assert "a path with a question mark is not accepted" in problems(directory, GOOD)[0]


def test_a_jwt_table_of_palpo_moves_over_as_it_is(tmp_path: Path) -> None:
    configuration = read(
        tmp_path,
        BASE
        + f"""\
enable = true
key = "{SECRET}"
format = "HMAC"
algorithm = "HS256"
register_user = true
audience = []
issuer = []
require_exp = false
require_nbf = false
validate_exp = true
validate_nbf = true
validate_signature = true
""",
    )

    assert secrets(configuration) == [SECRET]
    other = read(tmp_path, BASE + 'format = "HMACB64"\nsecret = "' + "QUJD" * 12 + '"\n')
    assert other.settings.jwt.format == "B64HMAC"


def test_what_is_unwise_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o644)

    text = BASE.replace(AS_TOKEN, "short") + 'secret_file = "secret"\nemail_claim = "email"\n'
    warnings = [warning.replace(f"{tmp_path}/", "") for warning in read(tmp_path, text).warnings]

    assert warnings == [
        "secret: holds a secret and everybody on this machine can read it; chmod 640 or stricter",
        "gateway.toml:5: [session] as_token: has 5 characters; it is worth the whole server, so use 32 or more",
        "gateway.toml:6: [jwt] require_exp: is false; a token without exp logs in for ever",
        "gateway.toml:6: [jwt] issuer: is empty; any token signed with this key is accepted, whoever issued it",
        (
            "gateway.toml:8: [jwt] email_claim: is not used; homeservers let only an administrator, or users who"
            " confirm it, add an e-mail address"
        ),
    ]


def test_the_password_of_the_database_comes_from_its_file_or_its_url_and_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    (tmp_path / "password").write_text("pass/wörd @:\n")
    url = "postgresql://me@localhost/x?sslmode=verify-full&sslrootcert=${HERE}/ca.pem"
    table = f'[database]\nurl = "{url}"\npassword_file = "password"\n'
    read_from_file = read(tmp_path, GOOD + table, HERE=str(tmp_path))
    with_path = quote(f"{tmp_path}/ca.pem", safe="")
    stated = f"postgresql://me:pass%2Fw%C3%B6rd%20%40%3A@localhost/x?sslmode=verify-full&sslrootcert={with_path}"

    assert make_url(read_from_file.settings.database.url) == make_url(stated)
    in_url = read(tmp_path, GOOD + f'[database]\nurl = "{stated}"\n')
    assert make_url(in_url.settings.database.url).password == "pass/wörd @:"
    for configuration in (read_from_file, in_url):
        shown = repr(configuration) + repr(configuration.settings)
        assert "wörd" not in shown
        assert "%B6" not in shown


def test_a_password_that_everybody_can_read_and_a_connection_that_anybody_may_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD + '[database]\nurl = "postgresql://me:secret@db.example.org/x"\n')
    path.chmod(0o644)
    warnings = load(path, {}).warnings

    assert any("holds the password of the database and everybody on this machine can read it" in w for w in warnings)
    assert any("[database] url: the connection may go without encryption; add ?sslmode=" in w for w in warnings)
    assert not any("secret@" in warning for warning in warnings)
    path.write_text(GOOD + '[database]\nurl = "postgresql:///x?host=/run/postgresql"\n')
    assert not any("[database]" in warning for warning in load(path, {}).warnings)
    path.write_text(GOOD + '[database]\npassword_file = "x"\n')
    assert any("[database] password_file: does nothing" in warning for warning in load(path, {}).warnings)


def test_without_its_library_postgresql_is_a_problem_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    (problem,) = problems(tmp_path, GOOD + '[database]\nurl = "postgresql://localhost/x"\n')

    assert problem.endswith("needs a library; run: pip install 'matrix-login-gateway[postgres]'")


def test_images_from_anywhere_are_warned_of_until_their_hosts_are_named(tmp_path: Path) -> None:
    text = GOOD + 'avatar_claim = "picture"\n[profile]\n'

    assert any("[jwt] avatar_claim: images are fetched" in warning for warning in read(tmp_path, text).warnings)
    for mend in ('avatar_hosts = ["id.example.org"]\n', 'avatar = "never"\n'):
        assert not any("avatar_claim" in warning for warning in read(tmp_path, text + mend).warnings)


@pytest.mark.parametrize(
    "entry", ["", "https://id.example.org", "id.example.org/", "a b", "a:0", "a:99999", "a:b", "u@a", "[::1", "*"]
)
def test_a_host_of_images_that_can_be_none_is_a_problem(tmp_path: Path, entry: str) -> None:
    (problem,) = problems(tmp_path, GOOD + f"[profile]\navatar_hosts = [{json.dumps(entry)}]\n")

    assert "[profile] avatar_hosts: write HOST or HOST:PORT" in problem


@pytest.mark.parametrize(
    ("keys", "warned"),
    [
        ("single_use = true", True),
        ("single_use = true\nrequire_exp = true\nvalidate_exp = false", True),
        ("single_use = true\nrequire_exp = true", False),
        ("single_use = true\nmax_token_age = 600", False),
        ("single_use = false", False),
    ],
)
def test_used_tokens_that_are_kept_for_ever_are_a_warning(tmp_path: Path, keys: str, *, warned: bool) -> None:
    warnings = read(tmp_path, f"{GOOD}{keys}\n").warnings

    assert any("a token that never expires is remembered for ever; set require_exp" in w for w in warnings) is warned


@pytest.mark.parametrize(
    ("types", "warned"),
    [
        ('["m.login.jwt"]', True),
        ('["org.matrix.login.jwt"]', False),
        ('["m.login.jwt", "org.matrix.login.jwt"]', False),
    ],
)
def test_a_login_type_that_the_homeserver_may_have_is_not_left_out_unsaid(
    tmp_path: Path, types: str, *, warned: bool
) -> None:
    warnings = read(tmp_path, f"{GOOD}login_types = {types}\n").warnings

    assert any('[jwt] login_types: lacks "org.matrix.login.jwt"' in w for w in warnings) is warned


@pytest.mark.parametrize(("single_use", "warned"), [("true", False), ("false", True)])
def test_a_grace_for_nothing_is_a_warning(tmp_path: Path, single_use: str, *, warned: bool) -> None:
    warnings = read(tmp_path, f"{GOOD}single_use_grace = true\nsingle_use = {single_use}\n").warnings

    assert any("[jwt] single_use_grace: does nothing without single_use" in w for w in warnings) is warned


def test_unsigned_tokens_need_a_word_in_the_environment_and_are_warned_of(tmp_path: Path) -> None:
    configuration = read(tmp_path, BASE + "validate_signature = false\n", **{ALLOW_UNSIGNED: "1"})

    assert (
        f"{configuration.path}:7: [jwt] validate_signature: is false; everybody can log in as anybody"
        in configuration.warnings
    )


def test_without_jwt_login_nothing_secret_is_needed(tmp_path: Path) -> None:
    text = BASE.replace(f'as_token = "{AS_TOKEN}"', "") + "enable = false\n"

    assert not read(tmp_path, text).settings.jwt.enable


def test_the_example_is_a_good_configuration(tmp_path: Path) -> None:
    (tmp_path / "as_token").write_text(AS_TOKEN)
    (tmp_path / "jwt.secret").write_text(SECRET)

    assert read(tmp_path, EXAMPLE.read_bytes()).settings.jwt.require_exp


def example_keys() -> dict[tuple[str, str], str]:
    """Every key of the example, commented out or not, with its value as it is written."""
    keys: dict[tuple[str, str], str] = {}
    table = ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            table = header[1]
        elif key := re.fullmatch(r"#?(\w+) = (.*)", line):
            keys[table, key[1]] = key[2]
    return keys


def known_keys() -> dict[tuple[str, str], Any]:
    return {
        (table, key): field
        for table, outer in Settings.model_fields.items()
        if isinstance(outer.annotation, type) and issubclass(outer.annotation, BaseModel)
        for key, field in outer.annotation.model_fields.items()
    }


def test_the_example_has_every_key_and_no_other() -> None:
    assert set(example_keys()) == set(known_keys())


# What an operator must set, or what only makes sense with a value.
SET = {("homeserver", "url"), ("homeserver", "server_name"), ("session", "as_token_file"), ("session", "as_token")}
SET |= {("session", f"jwt_{key}") for key in ("secret", "secret_file", "issuer", "audience", "display_name_claim")}
SET |= {("session", f"mas_{key}") for key in ("url", "oauth_url", "client_id", "client_secret", "client_secret_file")}
SET |= {("jwt", key) for key in ("secret", "secret_file", "require_exp", "required_claims", "token_type")}
SET |= {("server", key) for key in ("tls_certificate", "tls_private_key")}
SET |= {("jwt", key) for key in ("jwks_url", "discovery_url", "jwks_file")}
SET |= {("jwt", key) for key in ("display_name_claim", "avatar_claim", "email_claim")}
SET |= {("database", "password_file"), ("identity", "deny")}


@pytest.mark.parametrize("key", sorted(set(known_keys()) - SET), ids=".".join)
def test_the_example_shows_the_default(key: tuple[str, str]) -> None:
    table, name = key
    field = Settings.model_fields[table].annotation
    assert isinstance(field, type)
    shown = tomllib.loads(f"[{table}]\n{name} = {example_keys()[key]}\n")[table][name]
    required = {"url": "http://localhost", "server_name": "localhost"} if table == "homeserver" else {}
    assert issubclass(field, BaseModel)

    assert getattr(field.model_validate({**required, name: shown}), name) == getattr(
        field.model_validate(required), name
    )


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats()
    | st.dates()
    | st.datetimes()
    | st.text(max_size=20).map(ascii).map(ast.literal_eval),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)


def written(value: Any) -> str:
    """The value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {written(inner)}' for key, inner in value.items())} }}"
    if isinstance(value, date):
        return value.isoformat()
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(key=st.sampled_from(sorted(known_keys())), value=VALUES)
def test_any_value_is_taken_or_reported(tmp_path: Path, key: tuple[str, str], value: Any) -> None:
    tables: dict[str, Any] = tomllib.loads(GOOD)
    tables.setdefault(key[0], {})[key[1]] = value
    lines = [
        f"[{table}]\n" + "".join(f"{name} = {written(given)}\n" for name, given in keys.items())
        for table, keys in tables.items()
    ]
    try:
        read(tmp_path, "".join(lines))
    except ConfigurationError as error:
        assert error.problems
        assert len(error.problems) == len(set(error.problems))
        assert not re.search(r"lax-or-strict|instance of|(String|Input) should|must be a pattern", str(error))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.binary() | st.text().map(str.encode))
def test_any_octets_as_file_are_reported(tmp_path: Path, raw: bytes) -> None:
    assert problems(tmp_path, raw)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.sampled_from([f"{table}__{key}".upper() for table, key in known_keys()])
    | st.text(st.characters(exclude_characters="\0=")),
    value=st.text(st.characters(exclude_characters="\0", codec=None))
    | st.sampled_from(["{}", "[1]", "1", "1e999", "nan", "1979-05-27", "'", "\udcff"]),
)
def test_any_variable_of_the_environment_is_taken_or_reported(tmp_path: Path, name: str, value: str) -> None:
    try:
        read(tmp_path, GOOD, **{f"MATRIX_LOGIN_GATEWAY__{name}": value})
    except ConfigurationError as error:
        assert error.problems
        assert SECRET not in str(error)
