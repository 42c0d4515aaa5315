"""An invoice as PDF: what a company sends. Set by typst from `invoice.typ`, without the internet; with the extra `pdf`.

What is printed reaches the page as data, never as markup, whoever chose the words. The file is PDF/A-3b, which may not hold a character that no
typeface has: such a one is refused, by name, instead of printed as a box. Its only time is the document's own, so the same document is the same bytes.
"""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from billing.errors import Invalid
from billing.files.days import day_before
from billing.invoices.document import CREDIT_NOTE, DRAFT, PAID, VOID, Document, Line
from billing.money import format_exact, format_money
from billing.tenants.profile import Party

_TEMPLATE = Path(__file__).with_name("invoice.typ")
_FONTS = ("fontpkg_inter", "manimgx_fonts_cjk")
_THOUSANDTH = Decimal("0.001")


def to_pdf(document: Document, state: str, logo: bytes | None = None) -> bytes:
    """Set a document in its own language. `state` is marked across the page where it is draft or void; `logo` is PNG or JPEG.

    Raises `Invalid` where the extra is not installed, and for text with a character that no typeface here has.
    """
    typst, fonts = _typesetter()
    values = _printed(document, state) | {"logo": None if logo is None else list(logo)}
    compiler = typst.Compiler(root=str(_TEMPLATE.parent), font_paths=fonts, ignore_system_fonts=True)
    made_s = (document.period_end_us if document.issued_us is None else document.issued_us) // 1_000_000
    try:
        made: bytes = compiler.compile(
            _TEMPLATE.read_bytes(), format="pdf", sys_inputs={"invoice": msgspec.json.encode(values).decode()}, pdf_standards=["a-3b"], timestamp=made_s
        )
    except typst.TypstError as error:
        raise Invalid("format", f"format: {document.number or document.id} cannot be set as PDF, write it in other characters: {error.message}") from None
    return made


@lru_cache(maxsize=1)
def _typesetter() -> tuple[Any, Any]:
    if any(find_spec(name) is None for name in ("typst", *_FONTS)):
        raise Invalid("format", "format: pdf needs a typesetter and fonts, which are not installed; `pip install 'weir-gateway[pdf]'`")
    import typst

    # Found, not imported: a package of fonts has nothing that we run.
    specs = [find_spec(name) for name in _FONTS]
    folders = [folder for spec in specs if spec is not None for folder in spec.submodule_search_locations or ()]
    return typst, typst.Fonts(include_system_fonts=False, include_embedded_fonts=True, font_paths=folders)


def _printed(document: Document, state: str) -> dict[str, Any]:
    charges = [line for line in document.lines if line.kind != "usage" or line.amount_minor]
    usage = [line for line in document.lines if line.kind == "usage"]
    plain = ("kind", "number", "tenant_id", "currency", "language", "first_day", "issued_day", "due_day", "po_number", "cost_centre", "corrects", "reason")
    return {
        **{field: getattr(document, field) for field in (*plain, "bank", "footer")},
        "payment_terms": None if state in (VOID, PAID) else document.payment_terms,
        "last_day": day_before(document.end_day),
        "mark": state if state in (DRAFT, VOID) else None,
        "due_word": _due_word(document, state),
        "seller": _party(document.seller),
        "buyer": _party(document.buyer),
        "charges": [_charge(line, document.currency) for line in charges],
        "usage": [_use(line.model, line.project, [line]) for line in usage],
        "usage_total": _use("", "", usage),
        "net": _money(document.net_minor, document.currency),
        "total": _money(document.total_minor, document.currency),
        "taxes": [
            {
                "percent": tax.percent,
                "taxable": _money(tax.taxable_minor, document.currency),
                "tax": _money(tax.tax_minor, document.currency),
                "note": tax.note,
            }
            for tax in document.taxes
        ],
        "account": None if document.credits is None else _account(document),
    }


def _due_word(document: Document, state: str) -> str:
    if document.kind == CREDIT_NOTE:
        return "total_credit"
    return {VOID: "total_void", PAID: "total_paid"}.get(state, "total_due")


def _party(party: Party) -> dict[str, Any]:
    return {field: getattr(party, field) for field in Party.__struct_fields__}


def _charge(line: Line, currency: str) -> dict[str, str | None]:
    of = " · ".join(part for part in (line.model, line.project) if part)
    return {
        "description": line.description,
        "first_day": line.first_day,
        "last_day": day_before(line.end_day),
        "of": of or None,
        "credits": _credits(line.overage_ncr) if line.overage_ncr else "",
        "unit_price": _grouped(format_exact(Decimal(line.unit_price))) if line.unit_price is not None else "",
        "tax": f"{line.tax_percent} %",
        "amount": _money(line.amount_minor, currency),
    }


def _use(model: str | None, project: str | None, lines: Iterable[Line]) -> list[str]:
    listed = list(lines)
    parts = ("charge_ncr", "covered_ncr", "debt_ncr", "excess_ncr", "overage_ncr")
    requests = _grouped(str(sum(line.requests for line in listed)))
    return [model or "–", project or "–", requests, *(_credits(sum(getattr(line, part) for line in listed)) for part in parts)]


def _account(document: Document) -> list[tuple[str, str]]:
    credits = document.credits
    assert credits is not None
    taken = {"used": -credits.used_ncr, "expired": -credits.expired_ncr, "voided": -credits.voided_ncr}
    rows = {"opening": credits.opening_ncr, "granted": credits.granted_ncr, **taken, "closing": credits.closing_ncr, "owed": credits.debt_ncr}
    always = ("opening", "granted", "used", "expired", "closing")
    return [(name, _credits(ncr)) for name, ncr in rows.items() if ncr or name in always]


def _money(minor: int, currency: str) -> str:
    return _grouped(format_money(minor, currency))


def _credits(ncr: int) -> str:
    return _grouped(str(Decimal(ncr).scaleb(-9).quantize(_THOUSANDTH, rounding=ROUND_HALF_UP)))


def _grouped(text: str) -> str:
    """Write a decimal with commas between thousands and a true minus."""
    whole, point, part = text.lstrip("-").partition(".")
    return f"{'−' if text.startswith('-') else ''}{int(whole):,}{point}{part}"
