"""/admin/company: who sends the invoices, and on what terms. Its logo is a file of its own."""

from typing import Annotated

from fastapi import Body, HTTPException, Response
from pydantic import BaseModel, Field

from billing.invoices.company import GRACE_HOURS, PAYMENT_DAYS, Company, logo_type
from billing.operations import company
from gateway.auth.admin import AdminDesk
from gateway.config.forms import Form
from gateway.wire.problems import problem_router

router = problem_router("/company")

MEDIA = {"png": "image/png", "jpg": "image/jpeg"}
NOBODY = "Nobody has said yet who sends the invoices: PUT /admin/company."


class CompanySet(Form):
    """The company as it shall be. What is left out is as at the beginning; the logo stays."""

    legal_name: str
    address: list[str] = Field([], description="its lines, from the street on")
    country: str | None = Field(None, description="ISO 3166-1 alpha-2", examples=["DE"])
    tax_id: str | None = None
    email: str | None = None
    series: str = Field("INV", description="begins every invoice's number")
    credit_series: str = Field("CN", description="begins every credit note's number")
    grace_hours: int = Field(GRACE_HOURS, description="how long after its end a period takes late usage before it is closed")
    payment_days: int = Field(PAYMENT_DAYS, description="after its issue an invoice is due")
    bank: list[str] = Field([], description="lines that are printed as they are")
    footer: str | None = None


class CompanyOut(BaseModel):
    """Who sends the invoices. `logo` is the type of its file, which GET /admin/company/logo gives; null without one."""

    legal_name: str
    address: list[str]
    country: str | None
    tax_id: str | None
    email: str | None
    series: str
    credit_series: str
    grace_hours: int
    payment_days: int
    bank: list[str]
    footer: str | None
    logo: str | None


@router.get("", summary="Show who sends the invoices")
def show(desk: AdminDesk) -> CompanyOut:
    """Show the company. 404 until somebody said who it is."""
    return _out(_there(company.get_company(desk.database)))


@router.put("", summary="Say who sends the invoices")
def write(body: CompanySet, desk: AdminDesk) -> CompanyOut:
    """Write the company whole. Invoices that are issued keep what they say."""
    return _out(company.set_company(desk.database, body.model_dump(), desk.now_us()))


@router.get("/logo", summary="Show the logo", response_class=Response, responses={200: {"content": {media: {} for media in MEDIA.values()}}})
def logo(desk: AdminDesk) -> Response:
    """Give the logo's file."""
    found = _there(company.get_company(desk.database))
    if found.logo is None:
        raise HTTPException(404, "The company has no logo: PUT /admin/company/logo.")
    return Response(found.logo, media_type=MEDIA[logo_type(found.logo) or "png"])


@router.put("/logo", summary="Set the logo")
def set_logo(body: Annotated[bytes, Body(media_type="image/png", description="a PNG or JPEG file of at most 512 KiB")], desk: AdminDesk) -> CompanyOut:
    """Set the picture that is printed on invoices."""
    return _out(company.change_company(desk.database, {"logo": body}, desk.now_us()))


@router.delete("/logo", summary="Take the logo away")
def remove_logo(desk: AdminDesk) -> CompanyOut:
    """Print no picture on invoices any more."""
    return _out(company.change_company(desk.database, {"logo": None}, desk.now_us()))


def _there(found: Company | None) -> Company:
    if found is None:
        raise HTTPException(404, NOBODY)
    return found


def _out(found: Company) -> CompanyOut:
    return CompanyOut(**company.figures(found), logo=None if found.logo is None else logo_type(found.logo))
