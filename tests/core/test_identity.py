"""Claims become the right Matrix user, or nobody."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.core.identity import (
    ClaimNames,
    Identity,
    IdentityRules,
    UserMapping,
    check_server_name,
    identify,
)
from gateway.errors import Refusal, Refused


def mapped(claims: dict[str, Any], names: dict[str, Any] | None = None, **rules: Any) -> Identity:
    mapping = UserMapping.of(IdentityRules(**rules), ClaimNames(**names or {}), "example.org", issuer_matters=False)
    return identify(claims, mapping)


def refusal(claims: dict[str, Any], names: dict[str, Any] | None = None, **rules: Any) -> Refusal:
    with pytest.raises(Refused) as caught:
        mapped(claims, names, **rules)
    return caught.value.refusal


@pytest.mark.parametrize(
    ("claims", "names", "rules", "localpart"),
    [
        ({"sub": "alice"}, {}, {}, "alice"),
        ({"sub": "Alice"}, {}, {}, "alice"),
        ({"sub": "a.b_c=d/e+f-1"}, {}, {}, "a.b_c=d/e+f-1"),
        ({"sub": "@alice:example.org"}, {}, {}, "alice"),
        ({"sub": "@Alice:EXAMPLE.org"}, {}, {}, "alice"),
        ({"user": {"name": "bob"}}, {"subject_claim": "user.name"}, {}, "bob"),
        ({"user.name": "bob"}, {"subject_claim": "user.name"}, {}, "bob"),
        ({"https://x.y/z": "bob"}, {"subject_claim": "https://x.y/z"}, {}, "bob"),
        ({"email": "bob@x.y"}, {"subject_claim": "email"}, {"localpart": r"{sub:([^@]+)@x\.y}"}, "bob"),
        ({"sub": "1", "name": "bob"}, {}, {"localpart": "u-{name}"}, "u-bob"),
        ({"sub": "1", "a": {"b": "x"}, "c": 7}, {}, {"localpart": "{a.b}.{c}"}, "x.7"),
        ({"sub": "1", "https://x.y/z": "bob"}, {}, {"localpart": "{https://x.y/z}"}, "bob"),
        ({"sub": "ab12"}, {}, {"localpart": r"{sub:([a-z]{2})[0-9]{2}}"}, "ab"),
        ({"sub": "a b"}, {}, {"escape": True}, "a=20b"),
        ({"sub": "_a=é"}, {}, {"escape": True}, "=5fa=3d=c3=a9"),
        ({"sub": "Ab"}, {}, {"escape": True, "lowercase": False}, "=41b"),
        ({"sub": "@a:example.org"}, {}, {"escape": True, "strip_server_name": False}, "=40a=3aexample.org"),
        ({"sub": "Anna@Example.org"}, {}, {"historical": True}, "anna@example.org"),
        ({"sub": "JÖRG ÄÉ"}, {}, {"historical": True}, "jörg äé"),
        ({"sub": "JÖRG"}, {}, {"historical": True, "lowercase": False}, "JÖRG"),
        ({"sub": "\u212aÖ"}, {}, {"historical": True}, "\u212aÖ"),
        ({"sub": "4711"}, {}, {"historical": True}, "4711"),
        ({"sub": "@a b:example.org"}, {}, {"historical": True}, "a b"),
        ({"sub": "x" * 242}, {}, {}, "x" * 242),
        ({"sub": "alice"}, {}, {"allow": ["al.*"]}, "alice"),
        ({"sub": "alice"}, {"required_claims": {"groups": "a"}}, {}, None),
        ({"sub": "al", "groups": ["b", "a"]}, {"required_claims": {"groups": ["a", "z"]}}, {}, "al"),
        ({"sub": "al", "scope": "openid a"}, {"required_claims": {"scope": "a"}}, {}, "al"),
        ({"sub": "al", "n": True}, {"required_claims": {"n": 1}}, {}, None),
        ({"sub": "al", "n": 1}, {"required_claims": {"n": 1}}, {}, "al"),
        ({"sub": "al", "n": 2}, {"required_claims": {"n": [1, 2]}}, {}, "al"),
        ({"sub": "al", "n": "1"}, {"required_claims": {"n": 1}}, {}, None),
        ({"sub": "al", "v": False}, {"required_claims": {"v": True}}, {}, None),
        ({"sub": "al", "groups": []}, {"required_claims": {"groups": "a"}}, {}, None),
        ({"sub": "al", "groups": "ab"}, {"required_claims": {"groups": "a"}}, {}, None),
        ({"sub": "al", "groups": "b a"}, {"required_claims": {"groups": "a"}}, {}, None),
        ({"sub": "al", "scope": "aa"}, {"required_claims": {"scope": "a"}}, {}, None),
        ({"sub": "al", "r": {"roles": ["a"]}}, {"required_claims": {"r.roles": "a"}}, {}, "al"),
        ({"sub": "al", "r": ["roles"]}, {"required_claims": {"r.roles": "a"}}, {}, None),
        ({"sub": "al", "a": 1}, {"required_claims": {"a": 1, "b": 1}}, {}, None),
    ],
)
def test_a_subject_gets_its_localpart(
    claims: dict[str, Any], names: dict[str, Any], rules: dict[str, Any], localpart: str | None
) -> None:
    if localpart is None:
        assert refusal(claims, names, **rules) is Refusal.IDENTITY_REFUSED
        return
    identity = mapped(claims, names, **rules)

    assert (identity.localpart, identity.user_id) == (localpart, f"@{localpart}:example.org")


@pytest.mark.parametrize(
    "name", ["example.org", "Example.org", "localhost", "1.2.3.4:1234", "[1234:5678::abcd]", "[::1]:8448", "a-b.c"]
)
def test_a_server_name_of_the_grammar_is_accepted(name: str) -> None:
    assert check_server_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "bad name!!",
        "https://example.org/",
        "example.org/",
        "example.org:",
        "a:123456",
        "::1",
        "[]",
        "a_b",
        "a\n",
        "é",
    ],
)
def test_any_other_server_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a server name"):
        check_server_name(name)


@pytest.mark.parametrize("text", ["a\0b", "é" * 501, "a" * 1001])
def test_what_no_database_keeps_as_a_key_is_refused(text: str) -> None:
    assert refusal({"sub": text, "name": "alice"}, localpart="{name}") is Refusal.SUBJECT_MISSING
    assert refusal({"sub": "alice", "iss": text}) is Refusal.CLAIM_INVALID
    assert mapped({"sub": text.replace("\0", "")[:500], "name": "alice"}, localpart="{name}").localpart == "alice"


@pytest.mark.parametrize("value", [None, "", 5, True, ["alice"], {"a": "b"}])
def test_a_subject_that_is_no_text_is_refused(value: object) -> None:
    assert refusal({"sub": value}) is Refusal.SUBJECT_MISSING


@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("subject", ["@bob:other.server", "@bob:", "@bob:example.org.evil", "@a:b:example.org"])
def test_a_user_of_another_server_is_refused_always(subject: str, *, strip: bool, escape: bool) -> None:
    assert refusal({"sub": subject}, escape=escape, strip_server_name=strip) is Refusal.BAD_LOCALPART


@pytest.mark.parametrize(
    "subject",
    ["a b", "a:b", "alice@x", "é", "\u212aate", "\u0130", "_a", "123", "x" * 243, "a\n", "a\0", "@:example.org", "٣"],
)
def test_what_is_no_localpart_is_refused(subject: str) -> None:
    assert refusal({"sub": subject}) is Refusal.BAD_LOCALPART


@pytest.mark.parametrize(
    ("rules", "subject"),
    [
        ({"allow": ["alice"]}, "malice"),
        ({"allow": ["alice"]}, "alice2"),
        ({"deny": ["admin"]}, "the-admin-2"),
        ({"allow": ["a.*"], "deny": ["^ab$"]}, "ab"),
    ],
)
def test_the_lists_fail_closed(rules: dict[str, Any], subject: str) -> None:
    assert refusal({"sub": subject}, **rules) is Refusal.IDENTITY_REFUSED


def test_the_appservices_own_user_is_denied_also_when_escaping_is_off() -> None:
    assert refusal({"sub": "_login_gateway"}) is Refusal.BAD_LOCALPART


def test_an_expression_must_match_the_whole_claim() -> None:
    template = r"{email:([^@]+)@example\.org}"

    assert refusal({"sub": "1", "email": "root@example.org.evil.net"}, localpart=template) is Refusal.BAD_LOCALPART


def test_a_claim_of_the_template_that_is_missing_is_named() -> None:
    with pytest.raises(Refused) as caught:
        mapped({"sub": "1"}, localpart="{name}")
    assert (caught.value.refusal, caught.value.detail) == (Refusal.CLAIM_MISSING, "name")


@pytest.mark.parametrize("name", ["allow", "deny"])
@pytest.mark.parametrize("source", ["(", "a{99999999999999}", "(" * 3000 + ")" * 3000, "[[a]"])
def test_a_list_entry_that_is_no_expression_is_refused(name: str, source: str) -> None:
    with pytest.raises(ValidationError, match="not a regular expression"):
        IdentityRules.model_validate({name: [source]})


@pytest.mark.parametrize("wanted", [[], 1.5, {"a": 1}, [[1]], None])
def test_a_required_claim_needs_a_value_that_a_claim_can_have(wanted: object) -> None:
    with pytest.raises(ValidationError, match="'groups' needs text") as caught:
        ClaimNames.model_validate({"required_claims": {"groups": wanted}})
    assert caught.value.error_count() == 1


def test_the_issuer_tells_subjects_apart_where_issuers_are_configured() -> None:
    claims = {"sub": "alice", "iss": "https://issuer.example"}
    rules, names = IdentityRules(), ClaimNames(display_name_claim="name", avatar_claim="picture")

    with_issuer = UserMapping.of(rules, names, "example.org", issuer_matters=True)
    checked, unchecked = identify(claims, with_issuer), mapped(claims)
    assert (checked.issuer, checked.issuer_matters) == ("https://issuer.example", True)
    assert (unchecked.issuer, unchecked.issuer_matters) == ("https://issuer.example", False)


@pytest.mark.parametrize("issuer", [None, "", 7, ["https://issuer.example"]])
def test_an_issuer_that_is_no_text_is_none(issuer: object) -> None:
    assert mapped({"sub": "alice", "iss": issuer}).issuer == ""


def test_profile_claims_that_are_no_text_are_left_out() -> None:
    names = {"display_name_claim": "name", "avatar_claim": "a.picture"}
    identity = mapped({"sub": "alice", "name": "Alice", "a": {"picture": 5}}, names)

    assert (identity.display_name, identity.avatar) == ("Alice", None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["sub", "name", "groups"]), JSON), st.booleans())
def test_any_claims_give_a_valid_user_id_or_a_refusal(claims: dict[str, Any], escape: bool) -> None:  # noqa: FBT001
    try:
        identity = mapped(claims, localpart="{sub}{name}", escape=escape)
    except Refused as refused:
        assert refused.status in {400, 403}
    else:
        assert len(identity.user_id.encode()) <= 255
        assert set(identity.localpart) <= set("abcdefghijklmnopqrstuvwxyz0123456789._=/+-")


@given(st.text(min_size=1))
def test_a_historical_name_stays_one_line_and_one_user_of_ours(subject: str) -> None:
    try:
        identity = mapped({"sub": subject}, historical=True)
    except Refused as refused:
        assert refused.status in {400, 403}
    else:
        assert len(identity.user_id.encode()) <= 255
        assert identity.user_id.partition(":") == (f"@{identity.localpart}", ":", "example.org")
        assert identity.localpart.isprintable()
        assert identity.localpart[0] not in "@_"
        strange = sum(not char.isascii() for char in subject)
        assert sum(not char.isascii() for char in identity.localpart) >= strange
