"""The table of answers covers every refusal, and an answer never repeats too much."""

import pytest

from gateway.errors import ANSWERS, Refusal, Refused


def test_every_refusal_has_its_row() -> None:
    assert set(ANSWERS) == set(Refusal)


JWT = "JWT validation failed: "


@pytest.mark.parametrize(
    ("refusal", "detail", "status", "errcode", "error"),
    [
        (Refusal.TOKEN_MISSING, "", 403, "M_FORBIDDEN", "Token field for JWT is missing"),
        (Refusal.BAD_SIGNATURE, "", 403, "M_FORBIDDEN", JWT + "Signature verification failed"),
        (Refusal.UNDECODABLE, "why", 403, "M_FORBIDDEN", JWT + "decode_error: why"),
        (Refusal.UNSUPPORTED_ALGORITHM, "none", 403, "M_FORBIDDEN", JWT + "unsupported_algorithm: none"),
        (Refusal.NO_KEY, "why", 403, "M_FORBIDDEN", JWT + "invalid_key: why"),
        (Refusal.EXPIRED, "", 403, "M_FORBIDDEN", JWT + "expired_token: The token is expired"),
        (Refusal.NOT_YET_VALID, "", 403, "M_FORBIDDEN", JWT + "invalid_token: The token is not valid yet"),
        (
            Refusal.ISSUED_IN_FUTURE,
            "",
            403,
            "M_FORBIDDEN",
            JWT + "invalid_token: The token is not valid as it was issued in the future",
        ),
        (Refusal.CLAIM_INVALID, "iss", 403, "M_FORBIDDEN", JWT + "invalid_claim: Invalid claim 'iss'"),
        (Refusal.CLAIM_MISSING, "iss", 403, "M_FORBIDDEN", JWT + "missing_claim: Missing 'iss' claim"),
        (Refusal.SUBJECT_MISSING, "", 403, "M_FORBIDDEN", "Invalid JWT"),
        (Refusal.ALREADY_USED, "", 403, "M_FORBIDDEN", JWT + "invalid_token: The token was already used"),
        (Refusal.BAD_LOCALPART, "why", 400, "M_INVALID_USERNAME", "why"),
        (Refusal.IDENTITY_REFUSED, "", 403, "M_FORBIDDEN", "This identity may not log in here"),
        (Refusal.USER_NOT_FOUND, "", 403, "M_FORBIDDEN", "User not found"),
        (Refusal.ACCOUNT_LOCKED, "", 401, "M_USER_LOCKED", "User account has been locked"),
        (Refusal.ACCOUNT_DEACTIVATED, "", 403, "M_USER_DEACTIVATED", "This account has been deactivated"),
        (Refusal.BAD_PARAMETER, "'device_id' is", 400, "M_INVALID_PARAM", "'device_id' is"),
        (Refusal.BAD_JSON, "why", 400, "M_BAD_JSON", "The body of a login must be strict JSON: why"),
        (Refusal.UNSUPPORTED_CODING, "", 415, "M_UNKNOWN", "The body of a login must have no content coding"),
        (Refusal.BODY_TOO_LARGE, "", 413, "M_TOO_LARGE", "The body of the login is too large"),
        (Refusal.TOO_MANY_ATTEMPTS, "", 429, "M_LIMIT_EXCEEDED", "Too Many Requests"),
    ],
)
def test_an_answer_has_the_text_that_clients_know(
    refusal: Refusal, detail: str, status: int, errcode: str, error: str
) -> None:
    refused = Refused(refusal, detail)
    body = refused.body()

    assert (refused.status, body["errcode"], body["error"]) == (status, errcode, error)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refusal.HOMESERVER_UNREACHABLE, 502),
        (Refusal.HOMESERVER_TOO_SLOW, 504),
        (Refusal.HOMESERVER_REFUSES_GATEWAY, 502),
        (Refusal.DATABASE_UNAVAILABLE, 503),
    ],
)
def test_a_fault_behind_the_gateway_tells_the_client_no_internals(refusal: Refusal, status: int) -> None:
    refused = Refused(refusal, "10.0.0.1:8008", reason="10.0.0.1:8008")

    assert (refused.status, refused.body()["errcode"]) == (status, "M_UNKNOWN")
    assert "10.0.0.1" not in str(refused.body())


def test_a_locked_account_is_a_soft_logout() -> None:
    assert [refusal for refusal in Refusal if "soft_logout" in Refused(refusal).body()] == [Refusal.ACCOUNT_LOCKED]
    assert Refused(Refusal.ACCOUNT_LOCKED).body()["soft_logout"] is True


def test_too_many_attempts_say_how_long_to_wait() -> None:
    assert Refused(Refusal.TOO_MANY_ATTEMPTS, retry_after=1.5).body()["retry_after_ms"] == 1500
    assert "retry_after_ms" not in Refused(Refusal.DATABASE_UNAVAILABLE, retry_after=1.5).body()


@pytest.mark.parametrize("refusal", list(Refusal))
def test_every_answer_is_a_matrix_error(refusal: Refusal) -> None:
    refused = Refused(refusal, "detail")

    assert 400 <= refused.status < 600
    assert (refused.status == 500) == (refusal is Refusal.FAULT)
    assert {"errcode", "error"} <= set(refused.body())


def test_a_hostile_detail_is_cut() -> None:
    assert len(str(Refused(Refusal.UNDECODABLE, "x" * 10_000).body()["error"])) < 300


def test_a_detail_with_braces_stays_as_it_is() -> None:
    assert Refused(Refusal.UNSUPPORTED_ALGORITHM, "{0} {}").body()["error"] == (
        "JWT validation failed: unsupported_algorithm: {0} {}"
    )


def test_the_reason_is_for_the_log_alone() -> None:
    refused = Refused(Refusal.IDENTITY_REFUSED, reason="internal")

    assert "internal" in str(refused)
    assert "internal" not in str(refused.body())
