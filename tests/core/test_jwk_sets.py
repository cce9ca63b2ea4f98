"""A JWK set gives the keys that fit, and says of each other one why it was skipped; nothing repeats key material."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from gateway.core.jwk_sets import MAX_KEYS, MAX_TRIED, JwkSet, SetRules, algorithm_problems, no_keys, read_jwk_set
from gateway.core.keys import UnfitKeys
from gateway.core.public_keys import ALL_ALGORITHMS
from gateway.core.tokens import TokenRules, Trust, verify
from gateway.errors import Refusal, Refused

RSA = RSAKey.import_key(rsa.generate_private_key(65537, 2048))
EC = ECKey.import_key(ec.generate_private_key(ec.SECP256R1()))
OTHER_EC = ECKey.import_key(ec.generate_private_key(ec.SECP256R1()))
P384 = ECKey.import_key(ec.generate_private_key(ec.SECP384R1()))
P521 = ECKey.import_key(ec.generate_private_key(ec.SECP521R1()))
ED = OKPKey.generate_key("Ed25519")
ED448 = OKPKey.generate_key("Ed448")
SECRET = {"kty": "oct", "k": "c2VjcmV0" * 11}
ANY = SetRules(ALL_ALGORITHMS)
FILE = SetRules(ALL_ALGORITHMS, public=False)
HMAC = SetRules(("HS256", "HS512"), public=False)


def public(key: Key, **members: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), **members}


def read(*members: Any, rules: SetRules = ANY) -> JwkSet:
    return read_jwk_set(json.dumps({"keys": list(members)}).encode(), rules)


def refusal(octets: bytes, rules: SetRules = ANY) -> str:
    with pytest.raises(UnfitKeys) as caught:
        read_jwk_set(octets, rules)
    (problem,) = caught.value.problems
    return problem.text


def skipped(member: Any, rules: SetRules = ANY) -> str:
    """Why the key is skipped, in a set with a good one."""
    good = SECRET if rules is HMAC else public(P384)
    result = read(good, member, rules=rules)
    assert len(result.keys.keys) == 1
    (line,) = result.skipped
    assert line.startswith("key 2")
    return line.partition(": ")[2]


def sign(key: Key, algorithm: str, kid: Any = None) -> str:
    header = {"alg": algorithm} if kid is None else {"alg": algorithm, "kid": kid}
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    return jws.serialize_compact(header, b'{"sub": "alice"}', key, registry=registry)


def refused(token: str, jwk_set: JwkSet) -> tuple[Refusal, str]:
    with pytest.raises(Refused) as caught:
        verify(token, Trust(jwk_set.keys, TokenRules()), 1_800_000_000)
    return caught.value.refusal, caught.value.detail


def accepted(token: str, jwk_set: JwkSet) -> bool:
    return verify(token, Trust(jwk_set.keys, TokenRules()), 1_800_000_000) == {"sub": "alice"}


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (RSA, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (EC, {"ES256"}),
        (P384, {"ES384"}),
        (P521, {"ES512"}),
        (ED, {"EdDSA", "Ed25519"}),
        (ED448, {"EdDSA", "Ed448"}),
    ],
)
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
def test_a_key_of_each_kind_verifies_with_the_algorithms_that_fit_it_alone(key: Key, algorithms: set[str]) -> None:
    jwk_set = read(public(key, kid="a"))

    assert jwk_set.skipped == ()
    assert jwk_set.keys.keys[0].algorithms == algorithms
    for algorithm in algorithms:
        assert accepted(sign(key, algorithm, "a"), jwk_set)
    (other, *_) = set(ALL_ALGORITHMS) - algorithms
    forged = sign(OctKey.import_key(json.dumps(public(key))), "HS256")
    assert refused(forged, jwk_set) == (Refusal.UNSUPPORTED_ALGORITHM, "HS256")
    assert jwk_set.keys.candidates(other) == []


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (public(EC, use="enc"), "its 'use' is not \"sig\""),
        (public(EC, use=None), "its 'use' is not \"sig\""),
        (public(EC, use=["sig"]), "its 'use' is not \"sig\""),
        (public(EC, key_ops=["sign"]), "its 'key_ops' don't hold \"verify\""),
        (public(EC, key_ops=[]), "its 'key_ops' don't hold \"verify\""),
        (public(EC, key_ops="verify"), "its 'key_ops' don't hold \"verify\""),
        (public(EC, alg="RS256"), "its 'alg', 'RS256', does not fit the key"),
        (public(EC, alg="ES384"), "its 'alg', 'ES384', does not fit the key"),
        (public(RSA, alg="HS256"), "its 'alg', 'HS256', does not fit the key"),
        (public(RSA, alg="RSA-OAEP"), "its 'alg', 'RSA-OAEP', does not fit the key"),
        (public(EC, alg=5), "its 'alg', which is no text, does not fit the key"),
        (public(EC, alg=[]), "its 'alg', which is no text, does not fit the key"),
        (public(EC, kid=5), "its 'kid' is no text"),
        (public(EC, kid=["a"]), "its 'kid' is no text"),
        (public(EC, kty="AKP"), "a key of the type 'AKP'"),
        (public(EC, kty="ec"), "a key of the type 'ec'"),
        ({"kid": "a"}, "it has no 'kty'"),
        ({"kty": 5}, "it has no 'kty'"),
        ({"kty": ["RSA"]}, "it has no 'kty'"),
        (public(EC, crv="secp256k1"), "the curve 'secp256k1' is not known here"),
        (public(EC, crv=None), "the curve of no name is not known here"),
        (public(ED, crv="X25519"), "the curve 'X25519' is not known here"),
        (public(EC, crv="P-384"), "its numbers are no key of that kind"),
        (public(EC, x="AAAA"), "its numbers are no key of that kind"),
        (public(EC, x=public(EC)["y"], y=public(EC)["x"]), "its numbers are no key of that kind"),
        (public(EC, x=public(EC)["x"] + "="), "its 'x' is missing or not base64url"),
        (public(EC, x=5), "its 'x' is missing or not base64url"),
        ({"kty": "EC", "crv": "P-256"}, "its 'x' is missing or not base64url"),
        ({"kty": "RSA", "n": public(RSA)["n"]}, "its 'e' is missing or not base64url"),
        (public(RSA, e="AQ"), "its numbers are no key of that kind"),
        (public(RSA, e="AA"), "its numbers are no key of that kind"),
        (public(RSA, n="A" * 4000), "its 'n' is larger than 2049 bytes"),
        (public(ED, x="AAAA"), "its numbers are no key of that kind"),
        (public(ED, x=public(ED448)["x"]), "its numbers are no key of that kind"),
        ({**EC.as_dict(private=True)}, "a private key that everybody can read: tell its issuer"),
        ({**RSA.as_dict(private=True)}, "a private key that everybody can read: tell its issuer"),
        (public(RSA, p="AQAB"), "a private key that everybody can read: tell its issuer"),
        (SECRET, "a secret (oct) that everybody can read verifies nothing"),
        (5, "not a JSON object"),
        (None, "not a JSON object"),
        ([], "not a JSON object"),
    ],
)
def test_a_key_that_is_not_usable_is_skipped_alone(member: Any, why: str) -> None:
    assert skipped(member) == why


def test_a_small_rsa_key_is_skipped() -> None:
    small = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    n = RSAKey.import_key(rsa.generate_private_key(65537, 2048)).as_dict(private=False) | {
        "n": OctKey.import_key(small.n.to_bytes(128, "big")).as_dict(private=True)["k"]
    }
    assert skipped(n) == "an RSA key of 1024 bits is too small; use 2048 or more"


SMALL_25519 = {
    0: "order 4",
    1: "order 1",
    2**255 - 20: "order 2",
    2**255 - 19: "order 4, not reduced",
    2**255 - 18: "order 1, not reduced",
    0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826: "order 8",
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7: "order 8, the other",
}
SMALL_448 = {
    0: "order 4",
    1: "order 1",
    2**448 - 2**224 - 2: "order 2",
    2**448 - 2**224 - 1: "order 4, not reduced",
    2**448 - 2**224: "order 1, not reduced",
}


@pytest.mark.parametrize("sign_of_x", [0, 0x80])
@pytest.mark.parametrize(
    ("curve", "size", "y"),
    [("Ed25519", 32, y) for y in SMALL_25519] + [("Ed448", 57, y) for y in SMALL_448],
    ids=[*SMALL_25519.values(), *SMALL_448.values()],
)
def test_a_key_with_which_a_signature_by_anybody_verifies_is_skipped(
    curve: str, size: int, y: int, sign_of_x: int
) -> None:
    octets = bytearray(y.to_bytes(size, "little"))
    octets[-1] |= sign_of_x
    member = {"kty": "OKP", "crv": curve, "x": base64.urlsafe_b64encode(octets).rstrip(b"=").decode()}

    assert skipped(member) == f"an {curve} key of small order, with which a signature by anybody verifies"


def test_use_key_ops_and_alg_that_fit_are_honoured() -> None:
    jwk_set = read(public(RSA, use="sig", key_ops=["verify", "sign"], alg="PS256", kid="a"))

    assert jwk_set.keys.keys[0].algorithms == {"PS256"}
    assert accepted(sign(RSA, "PS256", "a"), jwk_set)
    assert refused(sign(RSA, "RS256", "a"), jwk_set) == (Refusal.NO_KEY, "no key for RS256 is named 'a'")


def test_only_algorithms_of_the_configuration_are_allowed() -> None:
    jwk_set = read(public(RSA), public(EC), public(RSA, alg="PS256"), rules=SetRules(("RS256",)))

    assert [key.algorithms for key in jwk_set.keys.keys] == [{"RS256"}]
    assert jwk_set.skipped == (
        "key 2: it fits ES256, which algorithm does not list",
        "key 3: it fits PS256, which algorithm does not list",
    )
    assert refused(sign(RSA, "PS256"), jwk_set) == (Refusal.UNSUPPORTED_ALGORITHM, "PS256")


def test_the_line_of_a_skipped_key_names_it_on_one_line() -> None:
    jwk_set = read(public(EC), {"kty": "x", "kid": "a\nb\x1b" + "c" * 100})

    assert jwk_set.skipped == (f"key 2 ('a\\nb\\x1b{'c' * 60}'): a key of the type 'x'",)


def test_a_token_with_a_kid_is_tried_with_the_keys_of_that_name_and_with_nameless_ones() -> None:
    jwk_set = read(public(EC, kid="a"), public(OTHER_EC))

    assert accepted(sign(EC, "ES256", "a"), jwk_set)
    assert accepted(sign(OTHER_EC, "ES256", "a"), jwk_set)
    assert accepted(sign(OTHER_EC, "ES256", "unknown"), jwk_set)
    assert refused(sign(EC, "ES256", "unknown"), jwk_set) == (Refusal.BAD_SIGNATURE, "")


def test_a_token_without_a_kid_is_tried_with_all_keys() -> None:
    jwk_set = read(public(EC, kid="a"), public(RSA, kid="c"), public(OTHER_EC, kid="b"))

    assert accepted(sign(OTHER_EC, "ES256"), jwk_set)


def test_keys_that_share_a_kid_are_both_tried() -> None:
    jwk_set = read(public(EC, kid="a"), public(OTHER_EC, kid="a"), public(RSA, kid="a"))

    assert accepted(sign(EC, "ES256", "a"), jwk_set)
    assert accepted(sign(OTHER_EC, "ES256", "a"), jwk_set)
    assert accepted(sign(RSA, "PS384", "a"), jwk_set)


@pytest.mark.parametrize("kid", [None, "a"])
def test_a_token_is_tried_with_eight_keys_at_most(kid: str | None) -> None:
    name = {} if kid is None else {"kid": kid}
    ninth = read(*[public(OTHER_EC, **name)] * MAX_TRIED, public(EC, **name))
    eighth = read(*[public(OTHER_EC, **name)] * (MAX_TRIED - 1), public(EC, **name))

    assert accepted(sign(EC, "ES256", kid), eighth)
    assert refused(sign(EC, "ES256", kid), ninth) == (Refusal.BAD_SIGNATURE, "")


@pytest.mark.parametrize("kid", ["../../../../dev/null", "' OR 1=1; --", "file:///etc/passwd", "", "\U0001f511", "A"])
def test_an_unknown_kid_is_a_name_that_no_key_has_and_no_more(kid: str) -> None:
    jwk_set = read(public(EC, kid="a"))

    assert refused(sign(EC, "ES256", kid), jwk_set) == (Refusal.NO_KEY, f"no key for ES256 is named {kid!a}")


@pytest.mark.parametrize("kid", ["5", "null", "true", '["a"]', '{"a": 1}', "1e400"])
def test_a_kid_that_is_no_text_is_refused(kid: str) -> None:
    jwk_set = read(public(EC, kid="a"))
    header = f'{{"alg": "ES256", "kid": {kid}}}'.encode()
    head = OctKey.import_key(header).as_dict(private=True)["k"]
    token = f"{head}.{sign(EC, 'ES256').partition('.')[2]}"

    assert refused(token, jwk_set) == (Refusal.UNDECODABLE, "the header's 'kid' is not a string")


def test_the_headers_own_keys_are_never_looked_at() -> None:
    jwk_set = read(public(EC, kid="a"))
    header: dict[str, Any] = {"alg": "ES256", "kid": "a", "jwk": public(OTHER_EC), "jku": "https://evil.example/"}
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    token = jws.serialize_compact(header, b"{}", OTHER_EC, registry=registry)

    assert refused(token, jwk_set) == (Refusal.BAD_SIGNATURE, "")


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "it can't be read: not JSON"),
        (b"<html>", "it can't be read: not JSON"),
        (b"\xff", "it can't be read: not UTF-8"),
        (b"[]", "it can't be read: not a JSON object"),
        (b'{"keys": [], "keys": []}', "it can't be read: a member appears twice"),
        (b'{"keys": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "it can't be read: nested too deeply"),
        (b'{"keys": NaN}', "it can't be read: NaN is no JSON number"),
        (b"{}", "it is no JWK set, which has a list of 'keys'"),
        (b'{"keys": {}}', "it is no JWK set, which has a list of 'keys'"),
        (json.dumps(public(EC)).encode(), "it is no JWK set, which has a list of 'keys'; write {\"keys\": [...]}"),
        (b'{"keys": []}', "it holds no key"),
        (b'{"keys": [1]}', "no key of it can be used: key 1: not a JSON object"),
        (json.dumps({"keys": [1] * (MAX_KEYS + 1)}).encode(), "it holds 1001 keys; 1000 at most are taken"),
        (json.dumps({"keys": [SECRET]}).encode(), "no key of it can be used: key 1: a secret (oct)"),
    ],
)
def test_a_set_that_is_not_usable_at_all_is_refused_with_the_reason(octets: bytes, why: str) -> None:
    assert refusal(octets).startswith(why)


def test_secrets_of_a_file_verify() -> None:
    jwk_set = read({**SECRET, "kid": "a"}, {"kty": "oct", "k": "QUJD" * 11}, rules=HMAC)

    assert [key.algorithms for key in jwk_set.keys.keys] == [{"HS256", "HS512"}, {"HS256"}]
    assert accepted(sign(OctKey.import_key(b"secret" * 11), "HS512", "a"), jwk_set)


@pytest.mark.parametrize(
    ("member", "why"),
    [
        ({"kty": "oct", "k": "QUJD"}, "a secret of 3 bytes is too short; HS256 needs 32"),
        ({"kty": "oct"}, "its 'k' is missing or not base64url"),
        ({**SECRET, "alg": "RS256"}, "its 'alg', 'RS256', does not fit the key"),
        ({**SECRET, "alg": "HS384"}, "it fits HS384, which algorithm does not list"),
        ({**SECRET, "use": "enc"}, "its 'use' is not \"sig\""),
    ],
)
def test_a_secret_of_a_file_that_is_not_usable_is_skipped(member: dict[str, Any], why: str) -> None:
    assert skipped(member, HMAC) == why


def test_a_short_secret_of_a_file_may_be_allowed() -> None:
    rules = SetRules(("HS256",), public=False, allow_weak_secret=True)

    assert read({"kty": "oct", "k": "QUJD"}, rules=rules).keys.keys[0].algorithms == {"HS256"}


def test_a_file_with_two_keys_of_one_kind_and_name_is_refused() -> None:
    other = {"kty": "oct", "k": "QUJD" * 20, "kid": "a"}
    octets = json.dumps({"keys": [{**SECRET, "kid": "a"}, other]}).encode()

    assert refusal(octets, HMAC) == "key 2 ('a') has the name of another key; give each its own 'kid'"
    assert len(read(public(EC, kid="a"), public(RSA, kid="a"), rules=FILE).keys.keys) == 2
    assert len(read(public(EC), public(OTHER_EC), rules=FILE).keys.keys) == 2


def test_a_file_that_mixes_secrets_and_public_keys_is_refused() -> None:
    octets = json.dumps({"keys": [SECRET, public(EC)]}).encode()

    assert refusal(octets, HMAC).startswith("it mixes secrets (oct) with public keys")
    assert refusal(octets, FILE).startswith("it mixes secrets (oct) with public keys")


@pytest.mark.parametrize("key", [RSA, EC, ED])
def test_a_file_with_a_private_key_is_refused_without_repeating_it(key: Key) -> None:
    text = refusal(json.dumps({"keys": [public(P384), key.as_dict(private=True, kid="a", use="enc")]}).encode(), FILE)

    assert text.startswith("key 2 ('a') is a private key, which belongs to the issuer alone")
    assert str(key.as_dict(private=True)["d"]) not in text


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (SetRules(("RS256", "EdDSA")), []),
        (SetRules(("HS256",), public=False), []),
        (SetRules(("HS256",)), ["'HS256' needs a secret, which is none when a URL shows it"]),
        (SetRules(("HS256", "RS256"), public=False), ["HMAC and public keys don't go together"]),
        (SetRules(("none", "RS256")), ["'none' is not known"]),
        (SetRules(()), ["the list is empty"]),
    ],
)
def test_algorithms_are_those_that_such_a_set_may_have(rules: SetRules, expected: list[str]) -> None:
    found = [problem.text for problem in algorithm_problems(rules)]

    assert [text[: len(start)] for text, start in zip(found, expected, strict=True)] == expected


def test_no_keys_allow_the_algorithms_and_verify_nothing() -> None:
    jwk_set = JwkSet(no_keys(SetRules(("ES256",))), ())

    assert refused(sign(EC, "ES256"), jwk_set) == (Refusal.NO_KEY, "no key for ES256")
    assert refused(sign(RSA, "RS256"), jwk_set) == (Refusal.UNSUPPORTED_ALGORITHM, "RS256")


def gives_keys_or_a_refusal(octets: bytes) -> None:
    for rules in (ANY, FILE, HMAC):
        try:
            result = read_jwk_set(octets, rules)
        except UnfitKeys as error:
            assert all("\n" not in problem.text for problem in error.problems)
        else:
            assert result.keys.keys
            assert all("\n" not in line for line in result.skipped)
            assert all(key.algorithms <= set(rules.algorithms) and key.algorithms for key in result.keys.keys)


@given(st.binary() | st.text().map(str.encode))
def test_any_octets_give_keys_or_a_refusal(octets: bytes) -> None:
    gives_keys_or_a_refusal(octets)


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2)
MEMBERS = st.sampled_from(["kty", "crv", "n", "e", "x", "y", "k", "d", "p", "use", "key_ops", "alg", "kid", "x5c"])
KEYS = st.sampled_from([public(RSA), public(EC), public(P384), public(P521), public(ED), public(ED448), SECRET])
VALUES = SCALARS | st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "sig", "verify", *ALL_ALGORITHMS])
BROKEN = st.builds(lambda key, changes: {**key, **changes}, KEYS, st.dictionaries(MEMBERS, VALUES, max_size=3))


@given(st.lists(BROKEN | SCALARS, max_size=4))
def test_any_set_of_nearly_good_keys_gives_keys_or_a_refusal(members: list[Any]) -> None:
    gives_keys_or_a_refusal(json.dumps({"keys": members}).encode())
