"""What becomes of a request when its credits end, its key's ceiling is reached, or the books are away: served as the plan says, and told so."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing.money import NCR_PER_CREDIT
from billing.operations import grants, keys
from tests.clock import ManualClock
from tests.house import TENANT, House, open_house
from tests.real.upstream import ScriptedUpstream

CREDIT = NCR_PER_CREDIT


def told(response: httpx.Response) -> tuple[int, str, str]:
    return response.status_code, response.headers["x-weir-lane"], response.headers["x-weir-lane-reason"]


async def reloaded(house: House) -> None:
    """Have the gateway notice what was changed in the books behind its back."""
    house.services.accounts.refresh(TENANT)
    house.services.keyring.forget(TENANT)
    await house.services.accounts.load(TENANT)


async def test_the_plans_other_model_serves_past_the_credits_and_the_answer_says_so(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    plan = {"allowance_ncr": 0, "on_exhausted": "fallback", "fallback_model": "echo"}
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}, plan=plan) as house:
        response = await house.chat("m")
        (booked,) = await house.events()
    assert told(response) == (200, "slow", "fallback_model")
    assert response.headers["x-weir-model"] == "echo"
    assert scripted_upstream.requests == []
    assert (booked.model, booked.backend, booked.cover_ncr) == ("echo", "echo", 0)


async def test_a_fallback_that_is_not_configured_leaves_the_request_in_the_slow_lane(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    plan = {"allowance_ncr": 0, "on_exhausted": "fallback", "fallback_model": "nowhere"}
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}, plan=plan) as house:
        response = await house.chat("m")
    assert told(response) == (200, "slow", "credits_exhausted")
    assert "x-weir-model" not in response.headers


async def test_a_key_at_its_ceiling_is_slowed_and_its_tenant_is_not(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        (key,) = keys.list_keys(house.services.database, TENANT)
        other = keys.issue_key(house.services.database, house.services.hasher, tenant_id=TENANT, kind="tenant", name="other", now_us=1)
        assert told(await house.chat("echo")) == (200, "fast", "credits")
        await house.events()
        keys.limit_key(house.services.database, key.id, ceiling_ncr=1, now_us=house.services.clock.now_us())
        await reloaded(house)
        held_up = await house.chat("echo")
        assert told(held_up)[:2] == (200, "slow")
        assert held_up.headers["x-weir-credits-remaining"] == "0"
        house.key = other.secret
        assert told(await house.chat("echo")) == (200, "fast", "credits")


async def test_a_seats_credits_are_its_keys_and_used_before_the_tenants(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        (key,) = keys.list_keys(house.services.database, TENANT)
        grants.add_grant(house.services.database, tenant_id=TENANT, amount_ncr=CREDIT, key_id=key.id, now_us=house.services.clock.now_us())
        await house.services.accounts.load(TENANT)
        assert told(await house.chat("echo")) == (200, "fast", "credits")
        (booked,) = await house.events()
        assert booked.purses == {f"key:{key.id}": booked.charge_ncr}
        left = {grant.kind: grant.amount_ncr - grant.remaining_ncr for grant in grants.list_grants(house.services.database, TENANT)}
        assert left == {"plan": 0, "topup": booked.charge_ncr}


async def test_credits_for_one_model_do_not_pay_for_another(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}, plan={"allowance_ncr": 0}) as house:
        grants.add_grant(house.services.database, tenant_id=TENANT, amount_ncr=CREDIT, models=("echo",), now_us=house.services.clock.now_us())
        assert told(await house.chat("m")) == (200, "slow", "credits_exhausted")
        assert told(await house.chat("echo")) == (200, "fast", "credits")


@pytest.mark.parametrize(("loss", "status"), [("slow", 200), ("closed", 503)])
async def test_past_the_term_of_its_leases_a_process_asks_the_plan(tmp_path: Path, loss: str, status: int) -> None:
    clock = ManualClock()
    async with open_house(tmp_path, {}, plan={"on_database_loss": loss}, clock=clock) as house:
        assert told(await house.chat("echo")) == (200, "fast", "credits")
        clock.advance(31)
        response = await house.chat("echo")
        assert response.status_code == status
        if status == 200:
            assert told(response) == (200, "slow", "books_away")
        else:
            assert response.json()["error"]["type"] == "server_error"
        await house.services.beat.beat()
        assert told(await house.chat("echo")) == (200, "fast", "credits")


async def test_a_balance_read_just_before_a_charge_is_booked_shows_that_charge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(tmp_path, {}, config="\nbooks: {flush_ms: 400}\n") as house:
        cost = Decimal((await house.chat("echo")).headers["x-weir-cost"])
        lookups = house.services.reads.lookups
        read = lookups.run
        held_up: list[object] = []

        async def late(work: Any) -> Any:
            found = await read(work)
            if not held_up and house.account.unflushed_ncr:
                held_up.append(found)
                async with asyncio.timeout(10):
                    while house.account.unflushed_ncr:
                        await asyncio.sleep(0.005)
            return found

        monkeypatch.setattr(lookups, "run", late)
        shown = (await house.client.get("/v1/credits", headers={"authorization": f"Bearer {house.key}"})).json()
    assert held_up, "it was booked before it was read"
    assert cost > 0 and Decimal(shown["remaining"]) == 1000 - cost
