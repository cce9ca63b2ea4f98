"""`import`: the documented samples of the three servers, what is odd in a file, and any file at all."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toml
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from gateway.cli.import_palpo import read_palpo, read_tuwunel
from gateway.cli.import_synapse import read_synapse
from gateway.cli.imported import Imported, toml_text
from gateway.config import Configuration, load
from gateway.core.identity import identify
from gateway.core.tokens import verify
from gateway.errors import ConfigurationError, Refused
from tests.cli.commands import run

NOW = 1_800_000_000
# The samples of each server's manual, in what they say; the values are the manuals' own.
SYNAPSE: dict[str, Any] = {
    "server_name": "example.org",
    "listeners": [
        {
            "port": 8008,
            "tls": False,
            "type": "http",
            "x_forwarded": True,
            "bind_addresses": ["::1", "127.0.0.1"],
            "resources": [{"names": ["client", "federation"], "compress": False}],
        }
    ],
    "jwt_config": {
        "enabled": True,
        "secret": "provided-by-your-issuer",
        "algorithm": "provided-by-your-issuer",
        "subject_claim": "name_of_claim",
        "display_name_claim": "name_of_claim",
        "issuer": "provided-by-your-issuer",
        "audiences": ["provided-by-your-issuer"],
    },
}
PALPO = """
server_name = "example.org"
[[listeners]]
address = "0.0.0.0:6006"
[jwt]
enable = true
secret = "your-secret-key-keep-this-private"
format = "HMAC"
algorithm = "HS256"
register_user = true
"""
TUWUNEL = """
[global]
server_name = "example.org"
[global.jwt]
enable = true
key = "yJKn0!E2g$5Hs!rUv9NQwL@ZmpQ3xVT"
"""


def synapse_file(directory: Path, **jwt_config: Any) -> Path:
    """The sample with these members; None takes one out."""
    members = {**SYNAPSE["jwt_config"], "algorithm": "HS256", **jwt_config}
    kept = {key: value for key, value in members.items() if value is not None}
    path = directory / "homeserver.yaml"
    path.write_text(yaml.safe_dump({**SYNAPSE, "jwt_config": kept}), encoding="utf-8")
    return path


def toml_file(directory: Path, text: str) -> Path:
    path = directory / "theirs.toml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(imported: Imported, directory: Path) -> Configuration:
    """The configuration that the printed file makes."""
    (directory / "as_token").write_text("a5" * 32)
    path = directory / "gateway.toml"
    path.write_text(toml_text(imported), encoding="utf-8")
    return load(path, {})


def user_of(configuration: Configuration, key: str, *, algorithm: str = "HS256", **claims: Any) -> str:
    """Who logs in by a token with these claims."""
    token = jwt.encode({"alg": algorithm}, claims, OctKey.import_key(key), algorithms=[algorithm])
    issuer = configuration.issuers[0]
    return identify(verify(token, issuer.trust, NOW), issuer.mapping).user_id


def test_the_sample_of_synapse_accepts_its_tokens(tmp_path: Path) -> None:
    configuration = loaded(read_synapse([synapse_file(tmp_path)]), tmp_path)
    key = name = "provided-by-your-issuer"

    claims: dict[str, Any] = {"name_of_claim": "alice", "iss": name, "aud": name}
    assert user_of(configuration, key, **claims) == "@alice:example.org"
    assert user_of(configuration, key, **claims, exp=NOW - 119) == "@alice:example.org"
    for wrong in ({"exp": NOW - 121}, {"iss": "another"}, {"aud": "another"}):
        with pytest.raises(Refused):
            user_of(configuration, key, **{**claims, **wrong})
    assert configuration.settings.homeserver.url == "http://127.0.0.1:8008"


def test_the_algorithm_of_synapses_sample_is_no_algorithm_and_is_named(tmp_path: Path) -> None:
    path = synapse_file(tmp_path, algorithm="provided-by-your-issuer")

    with pytest.raises(
        ConfigurationError, match=r"jwt_config\.algorithm: 'provided-by-your-issuer' is not supported"
    ):
        read_synapse([path])


def test_the_sample_of_palpo_accepts_its_tokens(tmp_path: Path) -> None:
    configuration = loaded(read_palpo(toml_file(tmp_path, PALPO)), tmp_path)

    assert user_of(configuration, "your-secret-key-keep-this-private", sub="Alice") == "@alice:example.org"
    assert configuration.settings.homeserver.url == "http://127.0.0.1:6006"


def test_the_sample_of_tuwunel_accepts_its_tokens(tmp_path: Path) -> None:
    configuration = loaded(read_tuwunel(toml_file(tmp_path, TUWUNEL)), tmp_path)

    assert user_of(configuration, "yJKn0!E2g$5Hs!rUv9NQwL@ZmpQ3xVT", sub="Alice") == "@alice:example.org"
    assert configuration.settings.jwt.allow_weak_secret
    assert configuration.settings.homeserver.url == "http://127.0.0.1:8008"


@pytest.mark.parametrize("name", ["B64HMAC", "HMACB64", "hmacb64"])
def test_a_secret_in_base64_is_one_however_its_format_is_spelled(tmp_path: Path, name: str) -> None:
    text = TUWUNEL.replace("yJKn0!E2g$5Hs!rUv9NQwL@ZmpQ3xVT", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    configuration = loaded(read_tuwunel(toml_file(tmp_path, f"{text}format = '{name}'\n")), tmp_path)

    assert user_of(configuration, "0123456789abcdef0123456789abcdef", sub="alice") == "@alice:example.org"


def test_a_public_key_of_palpo_verifies(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    jwt_table = {"secret": pem, "format": "ECDSA", "algorithm": "ES256"}
    path = toml_file(tmp_path, toml.dumps({"server_name": "example.org", "jwt": jwt_table}))

    configuration = loaded(read_palpo(path), tmp_path)

    octets = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    token = jwt.encode({"alg": "ES256"}, {"sub": "alice"}, ECKey.import_key(octets))
    assert verify(token, configuration.issuers[0].trust, NOW) == {"sub": "alice"}


def test_what_the_file_sets_is_taken_over(tmp_path: Path) -> None:
    rules: dict[str, Any] = {
        "register_user": False,
        "audience": ["matrix"],
        "issuer": ["https://id.example.org"],
        "require_exp": True,
        "require_nbf": True,
        "validate_exp": False,
        "validate_nbf": False,
    }
    configuration = loaded(
        read_palpo(toml_file(tmp_path, PALPO.replace("register_user = true", "") + toml.dumps(rules))), tmp_path
    )

    assert {key: getattr(configuration.settings.jwt, key) for key in rules} == rules


@pytest.mark.parametrize("claim", ["sub", None])
def test_what_synapse_has_by_default_is_the_default(tmp_path: Path, claim: str | None) -> None:
    path = synapse_file(tmp_path, subject_claim=claim, display_name_claim=None, issuer=None, audiences=None)
    jwt_settings = loaded(read_synapse([path]), tmp_path).settings.jwt

    assert (jwt_settings.subject_claim, jwt_settings.display_name_claim) == ("sub", None)
    assert (jwt_settings.issuer, jwt_settings.audience, jwt_settings.leeway) == ([], [], 120)


def test_a_login_that_is_off_stays_off(tmp_path: Path) -> None:
    off = loaded(read_tuwunel(toml_file(tmp_path, TUWUNEL.replace("enable = true", ""))), tmp_path)

    assert not off.settings.jwt.enable
    assert not loaded(read_synapse([synapse_file(tmp_path, enabled=None)]), tmp_path).settings.jwt.enable


def test_signatures_are_checked_whatever_the_file_says(tmp_path: Path) -> None:
    imported = read_palpo(toml_file(tmp_path, PALPO + "validate_signature = false\n"))

    assert loaded(imported, tmp_path).settings.jwt.validate_signature
    assert "# - validate_signature = false is left out: Palpo checks signatures all the same" in toml_text(imported)


@pytest.mark.parametrize("read", [read_palpo, read_tuwunel])
def test_users_whom_their_own_login_made_log_in(tmp_path: Path, read: Callable[[Path], Imported]) -> None:
    text, key = (
        (PALPO, "your-secret-key-keep-this-private")
        if read is read_palpo
        else (TUWUNEL, "yJKn0!E2g$5Hs!rUv9NQwL@ZmpQ3xVT")
    )
    configuration = loaded(read(toml_file(tmp_path, text)), tmp_path)

    for subject, localpart in (("Anna@Example.org", "anna@example.org"), ("JÖRG", "jörg"), ("4711", "4711")):
        assert user_of(configuration, key, sub=subject) == f"@{localpart}:example.org"


def test_each_difference_is_named(tmp_path: Path) -> None:
    palpo = head_of(read_palpo(toml_file(tmp_path, PALPO)))
    tuwunel = head_of(read_tuwunel(toml_file(tmp_path, TUWUNEL)))

    for software, text in (("Palpo", palpo), ("tuwunel", tuwunel)):
        for difference in (
            f"(anna@example.org, jörg, max mustermann, 4711) log in where {software} has made such a user",
            "`_` in front of a name is a bridge's, and refused.",
            f"and user ids of other servers, are refused in a subject; {software} makes users of them.",
            f"- A token with `crit` or `b64` in its header is refused here; {software} does not look at them.",
            f"- Subjects that differ in case alone are one user in {software}.",
            f"- A token whose `iat` is ahead of the clock, or no number, is refused here; {software} does not",
            f"- Users of bridges look like anybody in {software}: name them in [identity] deny.",
            f"- A token whose `iss` is a list is refused here where issuer is set; {software} takes it.",
            f"is 403 M_FORBIDDEN `User not found` here, 404 M_NOT_FOUND in {software}.",
            f"until then, by {software}'s own address users log in whom the gateway has locked or denies.",
        ):
            assert difference in text
    assert "in Palpo it is 404 M_NOT_FOUND." in palpo
    assert "in tuwunel it has words of its own." in tuwunel


def head_of(imported: Imported) -> str:
    """What stands above the first table, as one line."""
    head = toml_text(imported).partition("\n[")[0]
    return " ".join(line.removeprefix("#").strip() for line in head.splitlines())


@pytest.mark.parametrize(
    ("read", "key_format", "secret", "why"),
    [
        (read_palpo, "HMAC", "x" * 40, ""),
        (read_palpo, "HMACB64", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", ""),
        (read_palpo, "hmac", "x" * 40, "of formats its code knows HMAC, HMACB64, ECDSA alone"),
        (read_palpo, "B64HMAC", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "of formats its code knows"),
        (
            read_palpo,
            "HMACB64",
            "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
            "the secret is not base64 of the standard",
        ),
        (
            read_palpo,
            "HMACB64",
            "__8yMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            "the secret is not base64 of the standard",
        ),
        (read_tuwunel, "hmac", "x" * 40, ""),
        (
            read_tuwunel,
            "b64hmac",
            "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            "knows HMAC, HMACB64, ECDSA, EDDSA",
        ),
    ],
)
def test_a_table_by_which_nobody_has_logged_in_is_told_of(
    tmp_path: Path, read: Callable[[Path], Imported], key_format: str, secret: str, why: str
) -> None:
    jwt_table = {"secret": secret, "format": key_format, "enable": True}
    table = {"server_name": "example.org", "jwt": jwt_table}
    imported = read(toml_file(tmp_path, toml.dumps(table if read is read_palpo else {"global": table})))

    assert loaded(imported, tmp_path).settings.jwt.enable
    assert (f"- No token logs in at {imported.software} with its table:" in head_of(imported)) == bool(why)
    assert why in head_of(imported)


def test_keys_that_are_not_known_are_named(tmp_path: Path) -> None:
    assert "- jwt_config.clock: is not known here" in toml_text(read_synapse([synapse_file(tmp_path, clock=5)]))
    assert "- clock: is not known here" in toml_text(read_palpo(toml_file(tmp_path, PALPO + "clock = 5\n")))


def test_of_several_files_the_later_one_wins_as_in_synapse(tmp_path: Path) -> None:
    first = synapse_file(tmp_path)
    second = tmp_path / "server_name.yaml"
    second.write_text("server_name: matrix.example.com\n")

    assert read_synapse([second, first]).server_name == "example.org"
    assert read_synapse([first, second]).server_name == "matrix.example.com"


@pytest.mark.parametrize(("suffix", "dump"), [("yaml", yaml.safe_dump), ("yml", json.dumps), ("json", json.dumps)])
def test_palpo_is_read_in_its_other_formats(tmp_path: Path, suffix: str, dump: Callable[[Any], str]) -> None:
    path = tmp_path / f"palpo.{suffix}"
    path.write_text(dump(tomllib.loads(PALPO)))

    assert replace(read_palpo(path), source="") == replace(read_palpo(toml_file(tmp_path, PALPO)), source="")


def test_a_format_that_is_not_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "palpo.kdl"
    path.write_text('server_name "example.org"\njwt {\n  secret "x"\n}\n')

    result = run("import", "palpo", str(path))

    assert (result.returncode, result.stdout) == (2, "")
    assert "palpo.kdl: is KDL, which `import` does not read; write server_name, listeners and jwt as TOML" in (
        result.stderr
    )


@pytest.mark.parametrize(
    ("listeners", "url"),
    [
        ([], "http://127.0.0.1:8008"),
        ([{"address": "127.0.0.1:6006", "tls": {"cert": "a", "key": "b"}}], "https://127.0.0.1:6006"),
        ([{"address": "127.0.0.1:6006", "tls": {"enable": False, "cert": "a", "key": "b"}}], "http://127.0.0.1:6006"),
        ([{"address": "[::]:443", "tls": {"cert": "a", "key": "b"}}, {"address": "[::1]:6006"}], "http://[::1]:6006"),
    ],
)
def test_the_address_of_palpo_is_found(tmp_path: Path, listeners: list[Any], url: str) -> None:
    table = {**tomllib.loads(PALPO), "listeners": listeners}

    assert loaded(read_palpo(toml_file(tmp_path, toml.dumps(table))), tmp_path).settings.homeserver.url == url


LISTENER = SYNAPSE["listeners"][0]


@pytest.mark.parametrize(
    ("listeners", "url"),
    [
        ([], "http://127.0.0.1:8008"),
        ([{**LISTENER, "bind_addresses": ["0.0.0.0"], "port": 80}], "http://127.0.0.1:80"),
        ([{**LISTENER, "bind_addresses": ["::"]}], "http://[::1]:8008"),
        ([{**LISTENER, "bind_addresses": ["10.0.0.2", "10.0.0.3"]}], "http://10.0.0.2:8008"),
        ([{**LISTENER, "tls": True, "port": 8448}], "https://127.0.0.1:8448"),
        ([{**LISTENER, "tls": True, "port": 8448}, LISTENER], "http://127.0.0.1:8008"),
        ([{**LISTENER, "resources": [{"names": ["metrics"]}], "port": 1}, LISTENER], "http://127.0.0.1:8008"),
        ([{"path": "/run/synapse.sock", "resources": LISTENER["resources"]}], "unix:/run/synapse.sock"),
    ],
)
def test_the_address_is_the_listener_for_clients(tmp_path: Path, listeners: list[Any], url: str) -> None:
    path = synapse_file(tmp_path)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "listeners": listeners}))

    assert loaded(read_synapse([path]), tmp_path).settings.homeserver.url == url


@pytest.mark.parametrize(
    ("keys", "url"),
    [
        ("port = [6167, 8448]", "http://127.0.0.1:6167"),
        ('address = ["::", "0.0.0.0"]', "http://[::1]:8008"),
        ('unix_socket_path = "/run/tuwunel.sock"', "unix:/run/tuwunel.sock"),
        ('tls = { certs = "a", key = "b" }', "https://127.0.0.1:8008"),
    ],
)
def test_the_address_of_tuwunel_is_found(tmp_path: Path, keys: str, url: str) -> None:
    path = toml_file(tmp_path, TUWUNEL.replace("[global]", f"[global]\n{keys}"))

    assert loaded(read_tuwunel(path), tmp_path).settings.homeserver.url == url


def test_a_listener_that_hides_clients_addresses_is_told_of(tmp_path: Path) -> None:
    path = synapse_file(tmp_path)
    path.write_text(path.read_text().replace("x_forwarded: true", "x_forwarded: false"))

    assert "# Set x_forwarded: true on this listener" in toml_text(read_synapse([path]))


@pytest.mark.parametrize(
    ("jwt_config", "complaint"),
    [
        ({"secret": None}, "jwt_config.secret: is missing"),
        ({"secret": 12345}, "jwt_config.secret: must be text in quotes"),
        ({"issuer": ["a", "b"]}, "jwt_config.issuer: must be text in quotes"),
        ({"audiences": "matrix"}, r"jwt_config.audiences: must be a list"),
        ({"audiences": []}, "jwt_config.audiences: "),
        ({"algorithm": "none"}, "jwt_config.algorithm: 'none' is not supported"),
    ],
)
def test_what_is_wrong_in_jwt_config_is_named_without_the_secret(
    tmp_path: Path, jwt_config: dict[str, Any], complaint: str
) -> None:
    result = run("import", "synapse", str(synapse_file(tmp_path, **jwt_config)))

    assert (result.returncode, result.stdout) == (2, "")
    assert complaint in result.stderr
    assert "12345" not in result.stderr


def test_a_key_that_serve_would_refuse_is_told_of(tmp_path: Path) -> None:
    small = rsa.generate_private_key(65537, 1024).public_key()
    pem = small.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    result = run("import", "synapse", str(synapse_file(tmp_path, secret=pem, algorithm="RS256")))

    assert result.returncode == 0
    assert "REFUSED at start, mend it first: secret: an RSA key of 1024 bits is too small" in result.stdout
    assert "warning `serve` will refuse this: secret: an RSA key of 1024 bits" in result.stderr


def test_the_commands_print_a_file_and_warn_that_it_holds_a_secret(tmp_path: Path) -> None:
    for name, path in (
        ("synapse", synapse_file(tmp_path)),
        ("palpo", toml_file(tmp_path, PALPO)),
        ("tuwunel", tmp_path / "tuwunel.toml"),
    ):
        (tmp_path / "tuwunel.toml").write_text(TUWUNEL)
        result = run("import", name, str(path))

        assert result.returncode == 0, name
        assert tomllib.loads(result.stdout)["homeserver"]["server_name"] == "example.org"
        assert result.stderr == "The output holds a key: `umask 077` before it goes to a file.\n"


def test_a_file_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    source = toml_file(tmp_path, PALPO)
    for mode, told in (
        (0o644, "everybody on this machine can read it: `chmod 600` it"),
        (0o640, "`umask 077` before"),
    ):
        with (tmp_path / f"gateway{mode}.toml").open("w") as output:
            os.fchmod(output.fileno(), mode)
            command = [sys.executable, "-m", "gateway", "import", "palpo", str(source)]
            result = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=True)
        assert told in result.stderr


@pytest.mark.parametrize(
    ("command", "text", "complaint"),
    [
        ("palpo.json", "[]", "has no keys at its top"),
        ("palpo.json", "{", "not JSON"),
        ("palpo.json", '{"server_name": "example.org", "jwt": {"secret": "\\ud800"}}', "half a character"),
        ("palpo.yaml", "a: [", "1: not YAML"),
        ("synapse", "a: [", "1: not YAML"),
        ("synapse", "just text", "has no keys at its top"),
        ("synapse", "server_name: example.org", "there is no jwt_config"),
        ("palpo", "a = ", "not TOML"),
        ("palpo", "a = 1", "there is no table [jwt]"),
        ("palpo", "[jwt]", "server_name: is missing"),
        ("palpo", 'server_name = "a b"\n[jwt]', "server_name: not a server name"),
        ("palpo", 'server_name = "a"\n[jwt]\nformat = "RSA"', "format: 'RSA' is not known"),
        ("palpo", 'server_name = "a"\n[jwt]\nalgorithm = "ES256"', "algorithm: 'ES256' does not fit HMAC"),
        ("tuwunel", "[jwt]", "there is no table [global.jwt]"),
    ],
)
def test_a_file_that_can_not_be_read_is_one_line(tmp_path: Path, command: str, text: str, complaint: str) -> None:
    command, _, suffix = command.partition(".")
    path = tmp_path / ("theirs." + suffix).rstrip(".")
    path.write_text(text)

    result = run("import", command, str(path))

    assert (result.returncode, result.stdout) == (2, "")
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize("command", ["synapse", "palpo", "tuwunel"])
def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, command: str) -> None:
    result = run("import", command, str(tmp_path / "nothing"))

    assert result.returncode == 2
    assert "nothing: can't be read: No such file or directory" in result.stderr


in_one_directory = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
any_yaml = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@in_one_directory
@given(octets=st.binary(max_size=60) | st.text("!:-&*<{[]}|>,?#\n 'abint0._", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "theirs"
    path.write_bytes(octets)
    for read in (lambda path: read_synapse([path]), read_palpo, read_tuwunel):
        with pytest.raises(ConfigurationError):
            read(path)


@in_one_directory
@given(
    listeners=any_yaml | st.lists(st.fixed_dictionaries(dict.fromkeys(LISTENER, any_yaml)), max_size=2),
    jwt_config=st.fixed_dictionaries(
        {"secret": st.text(min_size=1), "algorithm": st.just("HS256")},
        optional=dict.fromkeys(("enabled", "issuer", "audiences", "subject_claim", "x"), any_yaml),
    ),
)
def test_any_values_make_a_file_that_is_toml_or_are_refused(
    tmp_path: Path, listeners: Any, jwt_config: dict[str, Any]
) -> None:
    path = tmp_path / "homeserver.yaml"
    table = {"server_name": "example.org", "listeners": listeners, "jwt_config": jwt_config}
    path.write_text(yaml.safe_dump(table), encoding="utf-8")
    try:
        text = toml_text(read_synapse([path]))
    except ConfigurationError:
        return
    assert tomllib.loads(text)["jwt"]["secret"] == jwt_config["secret"]


@in_one_directory
@given(secret=st.text(st.characters(codec="utf-8"), min_size=64, max_size=80))
def test_a_secret_is_the_same_in_the_file_that_is_printed(tmp_path: Path, secret: str) -> None:
    imported = read_synapse([synapse_file(tmp_path, secret=secret)])

    assert tomllib.loads(toml_text(imported))["jwt"]["secret"] == secret
    if not imported.problems:
        configuration = loaded(imported, tmp_path)
        assert user_of(
            configuration, secret, name_of_claim="alice", iss="provided-by-your-issuer", aud="provided-by-your-issuer"
        )
