"""Who a tenant is on paper: what an invoice to it has to say. Pure.

It stands apart from the tenant, which the hot path reads and which never needs it. Tax categories are those of EN 16931 (UNTDID 5305): S standard,
Z zero rated, E exempt, AE reverse charge, G export outside the EU, O outside the scope of tax.
"""

import re
from decimal import Decimal

import msgspec

from billing.errors import Invalid
from billing.money import parse_price

LANGUAGES = ("en", "zh")
TAX_CATEGORIES = ("S", "Z", "E", "AE", "G", "O")
TEXT_CHARS_MAX = 200
ADDRESS_LINES_MAX = 8
_COUNTRY = re.compile(r"[A-Z]{2}")


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """A seller or a buyer as an invoice names it. `country` is ISO 3166-1 alpha-2, `address` its lines from the street on."""

    name: str
    address: tuple[str, ...] = ()
    country: str | None = None
    tax_id: str | None = None
    email: str | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant on paper: the party that is billed, how it is taxed, and what it wants to read on an invoice.

    `tax_percent` is decimal text ("19", "8.1"), "0" in every category but S; `tax_note` is why no tax is charged, which every category but S and Z
    has to say.
    """

    party: Party
    tax_category: str = "O"
    tax_percent: str = "0"
    tax_note: str | None = "Not subject to tax"
    po_number: str | None = None
    cost_centre: str | None = None
    language: str = "en"


def check_party(party: Party) -> None:
    """Raise `Invalid` for a party that cannot stand on an invoice."""
    for field, text in (("legal_name", party.name), ("tax_id", party.tax_id), ("email", party.email)):
        _check_text(field, text)
    if len(party.address) > ADDRESS_LINES_MAX:
        raise Invalid("address", f"address: {len(party.address)} lines; at most {ADDRESS_LINES_MAX}")
    for line in party.address:
        _check_text("address", line)
    if party.country is not None and _COUNTRY.fullmatch(party.country) is None:
        raise Invalid("country", f"country: `{party.country[:20]}` is not a country; write its two letters, like DE, US or CN (ISO 3166-1)")


def check_profile(profile: Profile) -> None:
    """Raise `Invalid` for a profile that cannot stand on an invoice, naming the field and what would be right."""
    check_party(profile.party)
    for field in ("tax_note", "po_number", "cost_centre"):
        _check_text(field, getattr(profile, field))
    if profile.language not in LANGUAGES:
        raise Invalid("language", f"language: `{profile.language[:20]}` is not one that invoices are written in; one of {', '.join(LANGUAGES)}")
    if profile.tax_category not in TAX_CATEGORIES:
        raise Invalid("tax_category", f"tax_category: `{profile.tax_category[:20]}` is not one; one of {', '.join(TAX_CATEGORIES)}")
    percent = parse_price(profile.tax_percent, "tax_percent")
    if percent > 100:
        raise Invalid("tax_percent", f"tax_percent: `{profile.tax_percent}` is more than 100")
    if (percent > 0) != (profile.tax_category == "S"):
        right = "is more than 0" if profile.tax_category == "S" else "is 0"
        raise Invalid("tax_percent", f"tax_percent: `{profile.tax_percent}` does not go with tax_category {profile.tax_category}, whose rate {right}")
    if profile.tax_category not in ("S", "Z") and not profile.tax_note:
        raise Invalid("tax_note", f"tax_note: with tax_category {profile.tax_category} an invoice has to say why no tax is charged")


def percent_of(profile: Profile) -> Decimal:
    """Return the rate of tax in percent, exact."""
    return parse_price(profile.tax_percent, "tax_percent")


def _check_text(field: str, text: str | None) -> None:
    if text is not None and (not 1 <= len(text) <= TEXT_CHARS_MAX or not text.isprintable() or text != text.strip()):
        raise Invalid(field, f"{field}: `{text[:80]}` is not usable; 1 to {TEXT_CHARS_MAX} printable characters, no space at its ends")
