"""`format = "JWKS"`: a set has one source, and what is wrong with it is told by its place, without any fetch."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.issuer_keys import KeySource
from tests.fake_issuer import new_key, public
from tests.test_config import BASE, SECRET, problems, read

URL = "https://id.example/keys"
DOCUMENT = "https://id.example/.well-known/openid-configuration"
HEAD = BASE + 'format = "JWKS"\nalgorithm = ["ES256"]\n'
KEY = new_key("a")
OCT = {"kty": "oct", "k": "c2VjcmV0" * 11, "kid": "s"}


def write_set(directory: Path, *members: dict[str, Any]) -> str:
    (directory / "jwks.json").write_text(json.dumps({"keys": members}))
    return 'jwks_file = "jwks.json"\n'


def test_a_set_at_a_url_is_a_source_without_keys_yet(tmp_path: Path) -> None:
    (issuer,) = read(tmp_path, HEAD + f'jwks_url = "{URL}"\njwks_max_stale = 3600\n').issuers

    source = issuer.key_source
    assert source is not None
    assert (source.url, source.issuers, source.max_stale) == (URL, None, 3600)
    assert source.rules.public
    assert source.rules.algorithms == ("ES256",)
    assert issuer.key_set.keys == ()
    assert issuer.key_set.algorithms == {"ES256"}


def test_a_discovery_document_is_of_the_issuers_that_are_named(tmp_path: Path) -> None:
    text = HEAD + f'discovery_url = "{DOCUMENT}"\nissuer = ["https://id.example", "https://id.example/"]\n'
    (issuer,) = read(tmp_path, text).issuers

    assert isinstance(issuer.key_source, KeySource)
    assert issuer.key_source.url == DOCUMENT
    assert issuer.key_source.issuers == ("https://id.example", "https://id.example/")


def test_a_local_set_gives_its_keys_and_a_warning_for_each_that_is_skipped(tmp_path: Path) -> None:
    key_file = write_set(tmp_path, public(KEY), public(new_key("b"), use="enc"))
    configuration = read(tmp_path, HEAD + key_file + 'issuer = "x"\nrequire_exp = true\n')

    (issuer,) = configuration.issuers
    assert issuer.key_source is None
    assert [key.kid for key in issuer.key_set.keys] == ["a"]
    (warning,) = configuration.warnings
    assert warning.endswith("[jwt] jwks_file: key 2 ('b'): its 'use' is not \"sig\"; it is skipped")


@pytest.mark.parametrize("mode", [0o640, 0o644])
def test_a_local_set_of_secrets_verifies_and_is_to_be_kept_secret(tmp_path: Path, mode: int) -> None:
    key_file = write_set(tmp_path, OCT)
    (tmp_path / "jwks.json").chmod(mode)
    configuration = read(tmp_path, BASE + 'format = "JWKS"\nalgorithm = "HS256"\n' + key_file)

    assert len(configuration.issuers[0].key_set.candidates("HS256", "s")) == 1
    exposed = [warning for warning in configuration.warnings if "everybody on this machine can read it" in warning]
    assert len(exposed) == (mode == 0o644)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD, '[jwt] format: "JWKS" needs one of jwks_url, jwks_file, discovery_url'),
        (
            HEAD + f'jwks_url = "{URL}"\ndiscovery_url = "{DOCUMENT}"\nissuer = "x"\n',
            "discovery_url: is set together with `jwks_url`; keep one of the two",
        ),
        (HEAD + f'discovery_url = "{DOCUMENT}"\n', "discovery_url: needs `issuer`, which its document must name"),
        (HEAD + f'jwks_url = "{URL}"\nsecret = "{SECRET}"\n', '[jwt] secret: is not for format = "JWKS"'),
        (HEAD + f'jwks_url = "{URL}"\nsecret_file = "x"\n', '[jwt] secret_file: is not for format = "JWKS"'),
        (
            BASE + f'secret = "{SECRET}"\njwks_url = "{URL}"\n',
            'jwks_url: is for format = "JWKS", and format is "HMAC"',
        ),
        (
            BASE + f'format = "JWKS"\njwks_url = "{URL}"\n',
            "algorithm: 'HS256' needs a secret, which is none when a URL",
        ),
        (HEAD.replace("ES256", "none") + f'jwks_url = "{URL}"\n', "algorithm: 'none' is not known; use one of"),
        (HEAD + 'jwks_url = "http://id.example/keys"\n', "jwks_url: http lets others change the keys on their way"),
        (HEAD + f'jwks_url = "{URL}"\njwks_max_stale = 5\n', "jwks_max_stale: must be greater than or equal to 300"),
        (HEAD + 'jwks_file = "missing.json"\n', "jwks_file: missing.json can't be read: No such file"),
        (HEAD + 'jwks_file = "/dev/zero"\n', "is larger than 1048576 bytes"),
        (HEAD + 'jwks_file = "/dev/null"\n', "jwks_file: it can't be read: not JSON"),
        (HEAD + 'jwks_file = ""\n', "can't be read: Is a directory"),
        (HEAD + "jwks_url = 3\n", '[jwt] jwks_url: must be text in quotes, as in "..."'),
    ],
)
def test_a_problem_has_its_place_and_mend(tmp_path: Path, text: str, expected: str) -> None:
    found = problems(tmp_path, text)

    assert [expected in problem for problem in found] == [True], found
    assert SECRET not in found[0]


@pytest.mark.parametrize(
    ("members", "algorithm", "expected"),
    [
        ([], "ES256", "jwks_file: it holds no key"),
        ([public(KEY, use="enc")], "ES256", "jwks_file: no key of it can be used: key 1 ('a'): its 'use'"),
        (
            [KEY.as_dict(private=True)],
            "ES256",
            "jwks_file: key 1 ('a') is a private key, which belongs to the issuer",
        ),
        ([public(KEY), OCT], "ES256", "jwks_file: it mixes secrets (oct) with public keys"),
        ([{"kty": "oct", "k": "QUJD"}], "HS256", "a secret of 3 bytes is too short"),
    ],
)
def test_a_local_set_that_is_not_usable_is_a_problem(
    tmp_path: Path, members: list[dict[str, Any]], algorithm: str, expected: str
) -> None:
    (problem,) = problems(tmp_path, HEAD.replace("ES256", algorithm) + write_set(tmp_path, *members))

    assert expected in problem
    assert str(KEY.as_dict(private=True)["d"]) not in problem


def test_a_local_set_that_is_broken_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text("{")

    assert "jwks_file: it can't be read: not JSON" in problems(tmp_path, HEAD + 'jwks_file = "jwks.json"\n')[0]


@pytest.mark.parametrize("line", ["enable = false", "validate_signature = false"])
def test_no_source_is_asked_where_no_signature_is_checked(tmp_path: Path, line: str) -> None:
    text = HEAD + f'jwks_url = "{URL}"\n{line}\n'
    (issuer,) = read(tmp_path, text, MATRIX_LOGIN_GATEWAY_ALLOW_UNSIGNED="1").issuers

    assert issuer.key_source is None


def test_of_several_issuers_each_has_its_own_source(tmp_path: Path) -> None:
    text = BASE + (
        'format = "JWKS"\nalgorithm = "ES256"\n'
        f'[[jwt.issuers]]\nissuer = "https://a.example"\njwks_url = "{URL}"\n'
        f'[[jwt.issuers]]\nissuer = "https://b.example"\ndiscovery_url = "{DOCUMENT}"\n'
        f'[[jwt.issuers]]\nissuer = "https://c.example"\nformat = "HMAC"\nalgorithm = "HS256"\nsecret = "{SECRET}"\n'
    )
    sources = [issuer.key_source for issuer in read(tmp_path, text).issuers]

    assert [source and source.url for source in sources] == [URL, DOCUMENT, None]
