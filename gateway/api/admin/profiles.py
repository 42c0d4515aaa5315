"""/admin/tenants/{tenant_id}/profile: who a tenant is on paper, which is what an invoice to it says."""

from pydantic import BaseModel, Field

from billing.operations import profiles
from billing.operations.profiles import OnPaper
from gateway.auth.admin import AdminDesk
from gateway.config.forms import Form
from gateway.wire.problems import problem_router

router = problem_router("/tenants/{tenant_id}/profile")


class ProfileChange(Form):
    """What to change. A field that is left out stays, null takes one away. Another `tax_category` begins with its own rate and reason."""

    name: str | None = Field(None, max_length=200, description="what the tenant is called here; null: its id")
    legal_name: str | None = None
    address: list[str] | None = Field(None, description="its lines, from the street on")
    country: str | None = Field(None, description="ISO 3166-1 alpha-2", examples=["DE"])
    tax_id: str | None = None
    email: str | None = None
    tax_category: str | None = Field(None, description="of EN 16931: S standard, Z zero, E exempt, AE reverse charge, G export, O outside the scope of tax")
    tax_percent: str | None = Field(None, description="decimal text; 0 in every category but S", examples=["19"])
    tax_note: str | None = Field(None, description="why no tax is charged, which every category but S and Z has to say")
    po_number: str | None = None
    cost_centre: str | None = None
    language: str | None = Field(None, description="of its invoices: en or zh")


class ProfileOut(BaseModel):
    """A tenant on paper. One that nobody has written is called by its name, and not taxed."""

    tenant_id: str
    name: str
    legal_name: str
    address: list[str]
    country: str | None
    tax_id: str | None
    email: str | None
    tax_category: str
    tax_percent: str
    tax_note: str | None
    po_number: str | None
    cost_centre: str | None
    language: str


@router.get("", summary="Show a tenant on paper")
def show(tenant_id: str, desk: AdminDesk) -> ProfileOut:
    """Show what an invoice to a tenant says of it."""
    return _out(profiles.get_profile(desk.database, tenant_id))


@router.patch("", summary="Change a tenant on paper")
def change(tenant_id: str, body: ProfileChange, desk: AdminDesk) -> ProfileOut:
    """Change some of it. Invoices that are issued keep what they say."""
    given = body.model_dump(exclude_unset=True)
    name = given.pop("name") or "" if "name" in given else None
    changed = profiles.change_profile(desk.database, tenant_id, given, desk.now_us(), name=name)
    return _out(changed)


def _out(found: OnPaper) -> ProfileOut:
    return ProfileOut(tenant_id=found.tenant.id, name=found.tenant.name, **profiles.figures(found.profile))
