"""The table of answers covers every refusal, and an answer never repeats too much."""

import pytest

from gateway.errors import ANSWERS, Refusal, Refused


def test_every_refusal_has_its_row() -> None:
    assert set(ANSWERS) == set(Refusal)


@pytest.mark.parametrize("refusal", list(Refusal))
def test_every_answer_is_a_matrix_error(refusal: Refusal) -> None:
    refused = Refused(refusal, "detail")

    assert 400 <= refused.status < 600
    assert refused.status != 500
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
