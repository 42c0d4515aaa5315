"""A grant as a value: credits with a life of their own."""

import msgspec

KINDS = ("plan", "topup", "promotion", "adjustment")
PRIORITY_DEFAULT = {"plan": 10, "promotion": 20, "adjustment": 30, "topup": 40}  # lower burns first: what expires soonest by its nature


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Credits usable by requests that start in [effective_us, expires_us), unless voided. Amounts in ncr."""

    id: str
    tenant_id: str
    kind: str
    amount_ncr: int
    remaining_ncr: int
    priority: int
    effective_us: int
    expires_us: int | None
    voided_us: int | None
    created_us: int
    note: str
