"""Invoices and credit notes as JSON, each whole, with everything that is printed on it; credits and money as decimal text."""

from collections.abc import Iterable
from typing import Any, BinaryIO

import msgspec

from billing.files.days import instant
from billing.invoices.document import Document
from billing.money import format_credits, format_money


def write(out: BinaryIO, documents: Iterable[tuple[Document, str]]) -> None:
    """Write (document, state) as one array, a document at a time."""
    out.write(b"[")
    for number, (document, state) in enumerate(documents):
        out.write((b",\n" if number else b"\n") + to_json(document, state))
    out.write(b"\n]\n")


def to_json(document: Document, state: str) -> bytes:
    """Write one document as an object."""
    shown = _shown(msgspec.to_builtins(document), document.currency) | {"state": state}
    return msgspec.json.encode(shown, order="sorted")


def _shown(value: Any, currency: str) -> Any:
    if isinstance(value, list | tuple):
        return [_shown(one, currency) for one in value]
    if not isinstance(value, dict):
        return value
    return dict(_field(name, one, currency) for name, one in value.items())


def _field(name: str, value: Any, currency: str) -> tuple[str, Any]:
    if name.endswith("_minor"):
        return name.removesuffix("_minor"), format_money(value, currency)
    if name.endswith("_ncr"):
        return name.removesuffix("_ncr") + "_credits", format_credits(value)
    if name.endswith("_us"):
        return name.removesuffix("_us") + "_at", None if value is None else instant(value)
    return name, _shown(value, currency)
