"""Who sends the invoices, and on what terms. Pure."""

import re

import msgspec

from billing.errors import Invalid
from billing.tenants.profile import Party, check_party

GRACE_HOURS, PAYMENT_DAYS = 72, 30
LOGO_BYTES_MAX = 512 * 1024
LOGO_TYPES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg"}
_SERIES = re.compile(r"[A-Z0-9][A-Z0-9-]{0,19}")


class Company(msgspec.Struct, frozen=True, kw_only=True):
    """The operator as its invoices name it.

    `series` begins every number of an invoice, `credit_series` of a credit note; `grace_hours` is how long after its end a period takes late usage
    before it is closed; `payment_days` after the issue an invoice is due. `bank` and `footer` are printed as they are; `logo` is a PNG or JPEG file.
    """

    party: Party
    series: str = "INV"
    credit_series: str = "CN"
    grace_hours: int = GRACE_HOURS
    payment_days: int = PAYMENT_DAYS
    bank: tuple[str, ...] = ()
    footer: str | None = None
    logo: bytes | None = None


def check_company(company: Company) -> None:
    """Raise `Invalid` for one that cannot send an invoice, naming the field and what would be right."""
    check_party(company.party)
    for field in ("series", "credit_series"):
        if _SERIES.fullmatch(getattr(company, field)) is None:
            raise Invalid(field, f"{field}: `{getattr(company, field)[:40]}` is not usable; 1 to 20 of A-Z, 0-9 and -, like INV or DE-2026")
    if company.series == company.credit_series:
        raise Invalid("credit_series", f"credit_series: `{company.series}` is the invoices' own; numbers of credit notes are counted apart")
    for field, most in (("grace_hours", 24 * 28), ("payment_days", 365)):
        if not 0 <= getattr(company, field) <= most:
            raise Invalid(field, f"{field}: {getattr(company, field)} is out of range; 0 to {most}")
    if company.logo is not None and logo_type(company.logo) is None:
        raise Invalid("logo", f"logo: not a PNG or JPEG file of at most {LOGO_BYTES_MAX // 1024} KiB")


def logo_type(logo: bytes) -> str | None:
    """Tell a picture's type by how it begins: png or jpg; None for another, or one that is too large."""
    found = (name for magic, name in LOGO_TYPES.items() if logo.startswith(magic))
    return next(found, None) if len(logo) <= LOGO_BYTES_MAX else None
