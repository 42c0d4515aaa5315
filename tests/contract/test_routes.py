"""The sorted list of routes is a file: a route that appears or goes is seen in review."""

from pathlib import Path

from gateway.app import routes
from tests.house import open_house

LIST = Path(__file__).with_name("routes.txt")


async def test_the_routes_are_those_on_the_list(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        listed = routes(house.app)
    assert listed == LIST.read_text().splitlines(), "routes changed: if that is meant, write the new list to tests/contract/routes.txt"


async def test_the_docs_and_the_schema_are_served(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}) as house:
        assert (await house.client.get("/docs")).status_code == 200
        schema = (await house.client.get("/openapi.json")).json()
        assert schema["info"]["title"] == "Weir"
        assert {"/admin/tenants", "/v1/credits", "/v1/models"} <= schema["paths"].keys()
