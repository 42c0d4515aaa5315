"""The sorted list of routes is a file: a route that appears or goes is seen in review."""

import re
from pathlib import Path

from gateway.app import routes
from tests.house import open_house

LIST = Path(__file__).with_name("routes.txt")


async def test_the_routes_are_those_on_the_list(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        listed = routes(house.app)
    assert listed == LIST.read_text().splitlines(), "routes changed: if that is meant, write the new list to tests/contract/routes.txt"


async def test_every_operation_says_what_it_does_in_words(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        paths = house.app.api.openapi()["paths"]
    said = {f"{method.upper()} {path}": operation["summary"] for path, methods in paths.items() for method, operation in methods.items()}
    assert said["GET /admin/tenants"] == "List tenants"
    assert said["GET /admin/usage/events/{event_id}"] == "Show one usage event"
    assert [f"{where}: {summary}" for where, summary in said.items() if len(summary.split()) < 2] == []
    assert len(set(said.values())) == len(said), "two operations say the same"


async def test_the_docs_need_no_other_host(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        page = (await house.client.get("/docs")).text
        asked = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
        assert asked
        for path in asked:
            assert path.startswith("/docs/"), path
            answer = await house.client.get(path)
            assert (answer.status_code, len(answer.content) > 1000) == (200, True), path
    assert "https://" not in page


async def test_the_docs_and_the_schema_are_served(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        assert (await house.client.get("/docs")).status_code == 200
        schema = (await house.client.get("/openapi.json")).json()
        assert schema["info"]["title"] == "Weir"
        assert {"/admin/tenants", "/v1/credits", "/v1/models"} <= schema["paths"].keys()
