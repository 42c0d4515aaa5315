"""What an admin says of a backend's servers holds in a gateway that runs, and after it starts again."""

import asyncio
from pathlib import Path

from billing.operations import keys, servers
from tests.house import House, open_house
from tests.real.upstream import ScriptedUpstream


async def until_draining(house: House, draining: bool) -> None:
    async with asyncio.timeout(5):
        while house.services.pools["m"].replicas[0].draining is not draining:
            await asyncio.sleep(0.01)


async def test_a_drained_server_gets_nothing_until_it_is_restored(tmp_path: Path, scripted_upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, {"m": scripted_upstream.base_url}) as house:
        services = house.services
        admin = await asyncio.to_thread(lambda: keys.issue_key(services.database, services.hasher, kind="admin", now_us=services.clock.now_us()).secret)
        headers = {"authorization": f"Bearer {admin}"}
        pool = services.pools["m"]
        drained = await house.client.patch("/admin/backends/m", json={"draining": True, "weight": 7}, headers=headers)
        assert drained.json() == [{"backend": "m", "url": scripted_upstream.base_url, "draining": True, "weight": 7}]
        await until_draining(house, True)
        assert pool.replicas[0].weight == 7
        assert (await house.chat("m")).status_code == 503
        asked = len(scripted_upstream.requests)
        restored = await house.client.patch("/admin/backends/m", json={"url": scripted_upstream.base_url, "draining": False, "weight": None}, headers=headers)
        assert restored.json()[0]["weight"] is None
        await until_draining(house, False)
        assert pool.replicas[0].weight == 1
        await house.chat("m")
        assert len(scripted_upstream.requests) > asked
        assert await asyncio.to_thread(servers.list_servers, services.database) == [], "what says nothing is not kept"
        for path, body, status in (
            ("m", {"url": "http://127.0.0.1:1/v1", "draining": True}, 404),
            ("nonesuch", {"draining": True}, 404),
            ("m", {}, 422),
            ("m", {"weight": 0}, 422),
        ):
            assert (await house.client.patch(f"/admin/backends/{path}", json=body, headers=headers)).status_code == status
