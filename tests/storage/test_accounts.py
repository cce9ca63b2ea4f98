"""One row for each account, also when many claim it at once."""

import asyncio

import pytest

from gateway.core.accounts import Account, State
from gateway.core.identity import Identity
from gateway.storage.accounts import Accounts
from gateway.storage.database import Database

ALICE = Identity("iss", "s1", "alice", "@alice:example.org")


@pytest.fixture
def accounts(database: Database) -> Accounts:
    return Accounts(database)


async def test_a_claim_goes_on_to_an_active_account(accounts: Accounts) -> None:
    assert await accounts.claim(ALICE, 5)
    assert await accounts.find(ALICE) == [Account("alice", "iss", "s1", State.REGISTERING, 5, 5)]
    for _ in range(2):
        assert await accounts.keep_pending("alice")
    assert await accounts.find(ALICE) == [Account("alice", "iss", "s1", State.PENDING, 5, 5)]
    await accounts.activate("alice")
    assert await accounts.find(ALICE) == [Account("alice", "iss", "s1", State.ACTIVE, 5, 5)]
    assert not await accounts.keep_pending("alice")
    assert not await accounts.keep_pending("bob")


@pytest.mark.parametrize("state", list(State))
async def test_only_a_claim_that_nobody_rests_on_is_given_up(
    state: State, accounts: Accounts, database: Database
) -> None:
    await accounts.claim(ALICE, 5)
    async with database.connect() as connection:
        await connection.exec_driver_sql(f"UPDATE accounts SET state = '{state.value}'")
    await accounts.give_up("alice")
    assert len(await accounts.all()) == (0 if state is State.REGISTERING else 1)


async def test_many_claims_at_once_give_one_row(accounts: Accounts) -> None:
    rivals = [Identity("iss", f"s{number}", "alice", "@alice:example.org") for number in range(10)]

    claimed = await asyncio.gather(*(accounts.claim(identity, 1) for identity in rivals * 3))

    assert claimed.count(True) == 1
    assert len(await accounts.all()) == 1


async def test_a_subject_is_found_by_its_name_and_by_itself(accounts: Accounts) -> None:
    await accounts.claim(ALICE, 1)

    assert len(await accounts.find(Identity("iss", "s1", "renamed", "@renamed:example.org"))) == 1
    assert len(await accounts.find(Identity("iss", "other", "alice", "@alice:example.org"))) == 1
    assert await accounts.find(Identity("iss", "other", "bob", "@bob:example.org")) == []


async def test_activating_does_not_unlock(accounts: Accounts, database: Database) -> None:
    await accounts.claim(ALICE, 1)
    async with database.connect() as connection:
        await connection.exec_driver_sql("UPDATE accounts SET state = 'locked'")
    await accounts.activate("alice")

    (account,) = await accounts.all()
    assert account.state is State.LOCKED


async def test_when_users_were_seen_is_written_together(accounts: Accounts) -> None:
    await accounts.claim(ALICE, 1)
    await accounts.claim(Identity("iss", "s2", "bob", "@bob:example.org"), 1)
    await accounts.saw({"alice": 7, "bob": 8, "nobody": 9})

    assert [account.last_seen_at for account in await accounts.all()] == [7, 8]


async def test_a_subject_that_claims_two_names_at_once_gets_one(accounts: Accounts) -> None:
    names = [Identity("iss", "s1", f"alice{number}", f"@alice{number}:example.org") for number in range(8)]

    await asyncio.gather(*(accounts.claim(identity, 1) for identity in names))

    assert len(await accounts.all()) == 1


async def test_one_account_is_found_by_its_name_alone(accounts: Accounts) -> None:
    await accounts.claim(ALICE, 1)

    assert await accounts.get("alice") == Account("alice", "iss", "s1", State.REGISTERING, 1, 1)
    assert await accounts.get("Alice") is None


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE accounts; --", "%", "\x01", "\U0001f600" * 250, ":subject", "ß'\"\\"]
)
async def test_any_subject_is_kept_as_it_is(accounts: Accounts, text: str) -> None:
    await accounts.claim(Identity(text, text, "alice", "@alice:example.org"), 1)

    (account,) = await accounts.find(Identity(text, text, "other", "@other:example.org"))
    assert (account.issuer, account.subject) == (text, text)


@pytest.mark.parametrize("state", [State.REGISTERING, State.PENDING, State.ACTIVE])
async def test_an_unlocked_account_is_what_it_was_but_never_registering(accounts: Accounts, state: State) -> None:
    await accounts.claim(ALICE, 1)
    if state is State.PENDING:
        await accounts.keep_pending("alice")
    if state is State.ACTIVE:
        await accounts.activate("alice")

    for _ in range(2):
        assert await accounts.lock("alice")
        assert [row.state.is_locked for row in await accounts.all()] == [True]
    assert await accounts.unlock("alice")

    (account,) = await accounts.all()
    assert account.state is (State.ACTIVE if state is State.ACTIVE else State.PENDING)
    assert not await accounts.unlock("alice")


async def test_nothing_that_a_login_writes_unlocks_an_account(accounts: Accounts) -> None:
    await accounts.claim(ALICE, 1)
    await accounts.lock("alice")

    await accounts.activate("alice")
    await accounts.give_up("alice")

    assert not await accounts.keep_pending("alice")
    assert not await accounts.claim(ALICE, 2)
    assert [row.state for row in await accounts.all()] == [State.LOCKED_PENDING]


async def test_an_account_that_is_not_there_is_not_locked(accounts: Accounts) -> None:
    assert not await accounts.lock("alice")
    assert not await accounts.unlock("alice")
