"""Who fails or comes too often is refused with the time to wait, and nobody else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.errors import Refusal, Refused
from gateway.limits import Bucket, Limits, LimitSettings

NONE = Bucket(burst=0, refill=1)
TWO = Bucket(burst=2, refill=6)


def test_an_address_that_failed_too_often_waits_and_others_do_not() -> None:
    limits = Limits(LimitSettings(failed_logins_per_address=TWO))
    for _ in range(2):
        limits.check_address("192.0.2.1")
        limits.count_failure("192.0.2.1")

    with pytest.raises(Refused) as caught:
        limits.check_address("192.0.2.1")
    assert caught.value.refusal is Refusal.TOO_MANY_ATTEMPTS
    assert caught.value.retry_after == 10
    assert caught.value.body()["retry_after_ms"] == 10_000
    limits.check_address("192.0.2.2")


def test_to_look_does_not_count() -> None:
    limits = Limits(LimitSettings(failed_logins_per_address=TWO))

    for _ in range(10):
        limits.check_address("192.0.2.1")


@pytest.mark.parametrize(
    ("failing", "other", "shared"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:DB8:0::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("no address", "no address", True),
    ],
)
def test_the_addresses_of_one_subscriber_count_together(failing: str, other: str, *, shared: bool) -> None:
    limits = Limits(LimitSettings(failed_logins_per_address=Bucket(burst=1, refill=1)))
    limits.count_failure(failing)

    if shared:
        with pytest.raises(Refused):
            limits.check_address(other)
    else:
        limits.check_address(other)


def test_an_unknown_address_is_not_counted() -> None:
    limits = Limits(LimitSettings(failed_logins_per_address=TWO))

    for _ in range(10):
        limits.count_failure("")
        limits.check_address("")


def test_a_user_who_logs_in_too_often_waits_and_others_do_not() -> None:
    limits = Limits(LimitSettings(logins_per_user=TWO))
    limits.count_login("iss", "alice")
    limits.count_login("iss", "alice")

    with pytest.raises(Refused) as caught:
        limits.count_login("iss", "alice")
    assert caught.value.refusal is Refusal.TOO_MANY_ATTEMPTS
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 10
    limits.count_login("iss", "bob")
    limits.count_login("iss alice", "")
    limits.count_login("", "alice")


def test_a_user_who_was_refused_too_often_waits_and_others_do_not() -> None:
    limits = Limits(LimitSettings(failed_logins_per_user=TWO))
    for _ in range(2):
        limits.check_user("iss", "alice")
        limits.count_user_failure("iss", "alice")

    with pytest.raises(Refused) as caught:
        limits.check_user("iss", "alice")
    assert caught.value.refusal is Refusal.TOO_MANY_ATTEMPTS
    assert caught.value.body()["retry_after_ms"] == 10_000
    limits.check_user("iss", "bob")
    limits.check_user("", "alice")
    limits.count_login("iss", "alice")


def test_a_school_class_behind_one_address_stays_below_the_defaults() -> None:
    limits = Limits(LimitSettings())
    for pupil in range(32):
        for _ in range(3):
            limits.check_address("192.0.2.1")
            limits.count_failure("192.0.2.1")
        limits.check_address("192.0.2.1")
        limits.count_login("iss", f"pupil{pupil}")


def test_the_devices_of_one_user_stay_below_the_defaults() -> None:
    limits = Limits(LimitSettings())
    for _ in range(5 * 5):
        limits.check_user("iss", "alice")
        limits.count_user_failure("iss", "alice")


def test_a_burst_of_nothing_is_no_limit() -> None:
    limits = Limits(LimitSettings(failed_logins_per_address=NONE, failed_logins_per_user=NONE, logins_per_user=NONE))

    for _ in range(1000):
        limits.count_failure("192.0.2.1")
        limits.check_address("192.0.2.1")
        limits.count_user_failure("iss", "alice")
        limits.check_user("iss", "alice")
        limits.count_login("iss", "alice")


@pytest.mark.parametrize(("burst", "refill"), [(-1, 1), (1, 0), (10**6 + 1, 1), (1, 10**6 + 1), (1, 10**400)])
def test_a_bucket_that_can_not_be_counted_is_refused(burst: int, refill: int) -> None:
    with pytest.raises(ValidationError):
        Bucket(burst=burst, refill=refill)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.text())
def test_any_bucket_and_any_name_are_taken(burst: int, refill: int, name: str) -> None:
    bucket = Bucket(burst=burst, refill=refill)
    limits = Limits(
        LimitSettings(failed_logins_per_address=bucket, failed_logins_per_user=bucket, logins_per_user=bucket)
    )

    limits.check_address(name)
    limits.count_failure(name)
    limits.check_user(name, name)
    limits.count_user_failure(name, name)
    limits.count_login(name, name)
