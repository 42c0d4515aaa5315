"""What differs between two states of a thing, field by field. Pure."""

import json
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A field, inner ones with dots (`terms.weight`), with what it was and what it is; None: it had no value, or has none."""

    field: str
    old: Any
    new: Any


def differences(before: str | None, after: str | None) -> list[Difference]:
    """Compare two states as JSON and return the fields that differ, by name. Lists are compared as wholes."""
    old, new = ({} if text is None else _flat(json.loads(text)) for text in (before, after))
    return [Difference(field, old.get(field), new.get(field)) for field in sorted({**old, **new}) if old.get(field) != new.get(field)]


def _flat(state: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in (state if isinstance(state, dict) else {"value": state}).items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
