"""GET /docs: the reference of /admin, /finance and the rest, in Swagger UI served from here: a gateway without the internet has it too.

The files are those that the package `fastapi-offline` carries; FastAPI's own page takes them from a CDN.
"""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)
ASSETS = Path(str(files("fastapi_offline"))) / "static"
NAMES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")


@router.get("/docs")
async def page() -> Response:
    """Show the reference."""
    script, style, icon = (f"/docs/{name}" for name in NAMES)
    options = {"docExpansion": "list", "defaultModelsExpandDepth": 0, "persistAuthorization": True}
    return get_swagger_ui_html(
        openapi_url="/openapi.json", title="Weir", swagger_js_url=script, swagger_css_url=style, swagger_favicon_url=icon, swagger_ui_parameters=options
    )


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """Send one of the page's files."""
    if name not in NAMES:
        raise HTTPException(404, f"There is no `/docs/{name[:80]}`.")
    return FileResponse(ASSETS / name, headers={"cache-control": "max-age=86400"})
