"""Whose account it is, and what comes next on the way to a session."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.accounts import (
    Account,
    AccountRules,
    ExistingAccounts,
    State,
    Step,
    check_existence,
    check_made,
    choose_account,
    lacks_issuer,
    next_step,
)
from gateway.core.identity import Identity
from gateway.errors import Refusal, Refused

LINK = AccountRules(register_user=True, existing_accounts="link")
REFUSE = AccountRules(register_user=True, existing_accounts="refuse")
NO_NEW = AccountRules(register_user=False, existing_accounts="link")
ALICE = Identity("iss", "s1", "alice", "@alice:example.org")


def row(
    localpart: str = "alice",
    issuer: str = "iss",
    subject: str = "s1",
    state: State = State.ACTIVE,
    created_at: int = 0,
) -> Account:
    return Account(localpart, issuer, subject, state, created_at, None)


def test_a_stranger_has_no_account() -> None:
    assert choose_account([], ALICE) is None
    assert choose_account([row("bob", "other", "s1")], ALICE) is None


@pytest.mark.parametrize("issuer", ["iss", ""])
def test_the_owner_gets_its_account_also_from_a_time_without_issuers(issuer: str) -> None:
    assert choose_account([row(issuer=issuer)], ALICE) == row(issuer=issuer)


def test_where_issuers_are_not_checked_the_subject_alone_counts() -> None:
    unchecked = replace(ALICE, issuer="any", issuer_matters=False)

    assert choose_account([row()], unchecked) == row()
    assert not lacks_issuer(row(issuer=""), unchecked)


def test_an_account_without_issuer_gets_one_when_issuers_are_checked() -> None:
    assert lacks_issuer(row(issuer=""), ALICE)
    assert not lacks_issuer(row(), ALICE)
    assert not lacks_issuer(row(issuer=""), replace(ALICE, issuer=""))


@given(st.permutations([row("a", ""), row("b", "iss"), row("c", "other"), row("alice", "third")]))
def test_of_several_accounts_of_a_subject_the_choice_does_not_depend_on_their_order(rows: list[Account]) -> None:
    unchecked = replace(ALICE, issuer="new", issuer_matters=False)

    assert choose_account(rows, ALICE) == row("b", "iss")
    assert choose_account(rows, unchecked) == row("alice", "third")
    assert choose_account(rows, replace(unchecked, localpart="none")) == row("a", "")


@pytest.mark.parametrize("other", [row(subject="s2"), row(issuer="other")])
def test_an_account_of_another_subject_or_issuer_is_refused(other: Account) -> None:
    with pytest.raises(Refused) as caught:
        choose_account([other], ALICE)
    assert caught.value.refusal is Refusal.IDENTITY_REFUSED


def test_a_subject_keeps_its_account_when_its_name_changes() -> None:
    assert choose_account([row("old-name")], ALICE) == row("old-name")
    assert choose_account([row("old-name"), row(subject="s2")], ALICE) == row("old-name")


@pytest.mark.parametrize(
    ("state", "register_user", "existing_accounts", "step"),
    [
        (State.REGISTERING, True, "link", Step.PROVIDE),
        (State.REGISTERING, False, "link", Step.ASK_HOMESERVER),
        (State.REGISTERING, True, "refuse", Step.WAIT),
        (None, True, "link", Step.PROVIDE),
        (None, True, "refuse", Step.ASK_HOMESERVER),
        (None, False, "link", Step.ASK_HOMESERVER),
        (None, False, "refuse", Step.ASK_HOMESERVER),
        (State.PENDING, True, "link", Step.PROVIDE),
        (State.PENDING, True, "refuse", Step.PROVIDE),
        (State.PENDING, False, "link", Step.ASK_HOMESERVER),
        (State.ACTIVE, True, "link", Step.OPEN_SESSION),
        (State.ACTIVE, False, "refuse", Step.OPEN_SESSION),
    ],
)
def test_each_state_has_its_next_step(
    state: State | None, *, register_user: bool, existing_accounts: ExistingAccounts, step: Step
) -> None:
    rules = AccountRules(register_user, existing_accounts)

    assert next_step(None if state is None else row(state=state), rules, now=1) is step


@pytest.mark.parametrize(
    ("now", "step"), [(59.9, Step.WAIT), (60, Step.PROVIDE), (-59, Step.WAIT), (-60, Step.PROVIDE)]
)
def test_a_registration_is_waited_for_as_long_as_it_can_last(now: float, step: Step) -> None:
    assert next_step(row(state=State.REGISTERING), REFUSE, now) is step


@pytest.mark.parametrize("existing", ["link", "refuse"])
@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize(("created_at", "ours"), [(None, False), (400, True), (399, False)])
def test_an_account_that_no_registration_of_ours_can_have_made_is_somebody_elses(
    existing: ExistingAccounts, created_at: int | None, *, made: bool, ours: bool
) -> None:
    rules = AccountRules(register_user=True, existing_accounts=existing)
    account = None if created_at is None else row(state=State.PENDING, created_at=created_at)
    if existing == "link" or made or ours:
        check_made(rules, account, 1000, made=made)
        return
    with pytest.raises(Refused) as caught:
        check_made(rules, account, 1000, made=made)
    assert caught.value.refusal is Refusal.IDENTITY_REFUSED


def test_a_locked_account_goes_no_further() -> None:
    with pytest.raises(Refused) as caught:
        next_step(row(state=State.LOCKED), LINK, now=0)
    assert caught.value.refusal is Refusal.ACCOUNT_LOCKED


@pytest.mark.parametrize(
    ("account", "rules", "exists", "refusal"),
    [
        (None, NO_NEW, False, Refusal.USER_NOT_FOUND),
        (row(state=State.PENDING), NO_NEW, False, Refusal.USER_NOT_FOUND),
        (None, REFUSE, True, Refusal.IDENTITY_REFUSED),
        (row(), REFUSE, True, None),
        (None, REFUSE, False, None),
        (None, NO_NEW, True, None),
    ],
)
def test_what_the_homeserver_has_decides(
    account: Account | None, rules: AccountRules, refusal: Refusal | None, *, exists: bool
) -> None:
    if refusal is None:
        check_existence(account, rules, exists=exists)
        return
    with pytest.raises(Refused) as caught:
        check_existence(account, rules, exists=exists)
    assert caught.value.refusal is refusal
