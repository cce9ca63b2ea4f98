"""`[[jwt.issuers]]`: what an entry takes from `[jwt]`, and what is wrong with one, by its place."""

from pathlib import Path

import pytest

from tests.test_config import AS_TOKEN, problems, read

HEAD = f"""\
[homeserver]
url = "http://127.0.0.1:8008"
server_name = "example.org"
[session]
as_token = "{AS_TOKEN}"
"""
FIRST = """\
[[jwt.issuers]]
issuer = "https://a.example"
secret = "0123456789abcdef0123456789abcdef"
"""
SECOND = """\
[[jwt.issuers]]
issuer = "https://b.example"
key = "fedcba9876543210fedcba9876543210"
"""
SHORT = (
    "5 bytes are too short for HS256, which needs 32; make a longer one with `openssl rand -hex 32`,"
    " or set allow_weak_secret = true if you can't"
)
TWICE = "is set together with `secret`, which is its other name; keep one of the two"


def test_an_entry_takes_what_it_does_not_say_from_jwt_and_identity(tmp_path: Path) -> None:
    text = HEAD + (
        '[identity]\nlowercase = false\nlocalpart = "{name}"\n'
        '[jwt]\nleeway = 5\naudience = "x"\nalgorithm = "HS256"\nrequired_claims = { groups = "matrix" }\n'
        + FIRST
        + 'leeway = 7\n[jwt.issuers.identity]\nlocalpart = "a-{sub}"\n'
        + SECOND
    )

    first, second = read(tmp_path, text).issuers

    assert (first.settings.leeway, second.settings.leeway) == (7, 5)
    assert first.settings.audience == second.settings.audience == ["x"]
    assert first.settings.required_claims == {"groups": "matrix"}
    assert (first.identity.localpart, second.identity.localpart) == ("a-{sub}", "{name}")
    assert first.identity.lowercase is second.identity.lowercase is False
    assert len(first.key_set.keys) == len(second.key_set.keys) == 1


def test_an_entry_with_a_key_of_its_own_takes_no_other(tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("a secret that all share, 32 bytes or more")
    text = HEAD + '[jwt]\nsecret_file = "shared"\n' + FIRST + '[[jwt.issuers]]\nissuer = "https://c.example"\n'

    first, second = read(tmp_path, text).issuers

    assert first.settings.secret_file == []
    assert second.settings.secret_file == ["shared"]
    assert len(second.key_set.keys) == 1


def test_without_entries_jwt_itself_is_the_one_issuer(tmp_path: Path) -> None:
    (issuer,) = read(tmp_path, HEAD + '[jwt]\nsecret = "0123456789abcdef0123456789abcdef"\n').issuers

    assert issuer.settings.issuer == []
    assert issuer.mapping.linked_issuers == {""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            FIRST + '[[jwt.issuers]]\nsecret = "fedcba9876543210fedcba9876543210"\n',
            ["9: [[jwt.issuers]] 2 issuer: is missing; the `iss` of a token selects its entry by it"],
        ),
        (
            FIRST + '[[jwt.issuers]]\nissuer = ""\nsecret = "fedcba9876543210fedcba9876543210"\n',
            ['10: [[jwt.issuers]] 2 issuer: "" is no issuer; write the `iss` of its tokens'],
        ),
        (FIRST + FIRST, ["10: [[jwt.issuers]] 2 issuer: 'https://a.example' is that of entry 1 too"]),
        (
            FIRST + SECOND + "leewy = 5\n",
            ["12: [[jwt.issuers]] 2 leewy: unknown key; the nearest known one is 'leeway'"],
        ),
        (
            FIRST + "[jwt.issuers.identity]\nlocalparts = 5\n",
            ["10: [[jwt.issuers]] 1 identity.localparts: unknown key; the nearest known one is 'localpart'"],
        ),
        (
            FIRST + '[[jwt.issuers]]\nissuer = "https://b.example"\n',
            ["9: [[jwt.issuers]] 2 secret: there is none; set `secret` or `secret_file`"],
        ),
        (
            FIRST.replace("0123456789abcdef0123456789abcdef", "short"),
            [f"8: [[jwt.issuers]] 1 secret: {SHORT}"],
        ),
        (
            '[jwt]\nissuer = "https://a.example"\n' + SECOND,
            ["7: [jwt] issuer: is for one issuer; where there are [[jwt.issuers]], write it there"],
        ),
        (
            FIRST + "enable = true\n",
            ["9: [[jwt.issuers]] 1 enable: unknown key"],
        ),
        (SECOND + 'secret = "x"\n', [f"8: [[jwt.issuers]] 1 key: {TWICE}"]),
        ("[jwt]\nissuers = 5\n", ['7: [jwt] issuers: must be a list, as in ["..."]']),
    ],
)
def test_a_problem_names_its_entry(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert problems(tmp_path, HEAD + text) == [f"gateway.toml:{line}" for line in expected]


def test_a_problem_of_a_key_that_all_take_stands_once(tmp_path: Path) -> None:
    text = '[jwt]\nsecret_file = "missing"\n[[jwt.issuers]]\nissuer = "a"\n[[jwt.issuers]]\nissuer = "b"\n'

    assert problems(tmp_path, HEAD + text) == [
        f"gateway.toml:7: [jwt] secret_file: {tmp_path}/missing can't be read: No such file or directory".replace(
            f"{tmp_path}/", ""
        )
    ]


def test_a_secret_that_two_issuers_have_is_warned_of(tmp_path: Path) -> None:
    shared = SECOND.replace("fedcba9876543210fedcba9876543210", "0123456789abcdef0123456789abcdef")

    warnings = read(tmp_path, HEAD + FIRST + shared).warnings

    said = "[[jwt.issuers]] 2: has a secret of entry 1 too; each of the two can log in the other's users"
    assert f"{tmp_path}/gateway.toml:9: {said}" in warnings


def test_entries_can_come_from_the_environment(tmp_path: Path) -> None:
    entry = '[{issuer = "https://a.example", secret = "0123456789abcdef0123456789abcdef"}]'

    (issuer,) = read(tmp_path, HEAD, MATRIX_LOGIN_GATEWAY__JWT__ISSUERS=entry).issuers

    assert issuer.settings.issuer == ["https://a.example"]
