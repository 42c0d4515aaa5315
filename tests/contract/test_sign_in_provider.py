"""The whole gateway and a real OpenID provider (oidc-provider-mock, built on authlib), each a server of its own: a person signs in, works, and signs out."""

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.house import open_house
from tests.real.child import Child, free_port


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    child = Child([sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", "1"], tmp_path / "provider.log")
    try:
        child.wait_ready(f"http://127.0.0.1:{port}/.well-known/openid-configuration", 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.kill()


async def test_a_person_signs_in_at_a_provider_and_works_with_the_role_it_gives(tmp_path: Path, provider: str) -> None:
    config = f"\noidc: {{issuer: '{provider}', client_id: weir, client_secret: s, roles: {{weir-finance: finance}}, public_url: 'http://127.0.0.1:1'}}\n"
    async with open_house(tmp_path, {}, config=config) as house, httpx.AsyncClient(trust_env=False) as person:
        await person.put(f"{provider}/users/ada", json={"email": "ada@example.com", "email_verified": True, "groups": ["weir-finance"]})
        leaving = await house.client.get("/auth/login?next=/docs")
        assert leaving.status_code == 302
        agreed = await person.post(leaving.headers["location"], data={"sub": "ada"})
        back = agreed.headers["location"].removeprefix("http://127.0.0.1:1")
        arrived = await house.client.get(back)
        assert (arrived.status_code, arrived.headers["location"]) == (302, "/docs"), arrived.text
        said = (await house.client.get("/admin/whoami")).json()
        assert (said["actor"], said["roles"], said["kind"]) == ("oidc:ada@example.com", ["finance"], "oidc")
        assert (await house.client.get("/finance/usage?month=2026-11")).status_code == 200
        assert (await house.client.post("/admin/tenants", json={}, headers={"x-weir-csrf": "1"})).status_code == 403
        assert (await house.client.get(back)).status_code == 400, "what was brought back is good once"
        assert (await house.client.post("/auth/logout", headers={"x-weir-csrf": "1"})).status_code == 204
        assert (await house.client.get("/admin/whoami")).status_code == 401
