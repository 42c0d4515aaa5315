"""A grant as a value: credits with a life of their own, and who may use them."""

from hashlib import blake2b

import msgspec

KINDS = ("plan", "rollover", "topup", "promotion", "adjustment")
BY_ITSELF = ("plan", "rollover")  # what a subscription gives; nobody else does, and their ids begin with the kind
PRIORITY_DEFAULT = {"rollover": 5, "plan": 10, "promotion": 20, "adjustment": 30, "topup": 40}  # lower burns first: what expires soonest by its nature
GENERAL = ""  # the purse of what any request of the tenant may use
PURSE_CHARS_MAX = 300  # a purse is part of a table's key; past this its name is a digest


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Credits usable by requests that start in [effective_us, expires_us), unless voided. Amounts in ncr.

    `key_id` or `project` (a seat) and `models` narrow down which requests of the tenant may use it; None: any.
    At all times amount = remaining + used + expired + voided, where used is what the ledger drew from it.
    """

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
    key_id: str | None = None
    project: str | None = None
    models: tuple[str, ...] | None = None
    expired_ncr: int = 0
    voided_ncr: int = 0

    @property
    def used_ncr(self) -> int:
        """What requests used of it, the debt that it repaid, and what went on in a rollover."""
        return self.amount_ncr - self.remaining_ncr - self.expired_ncr - self.voided_ncr


def purse_of(grant: Grant) -> str:
    """Name the purse a grant belongs to: grants of one purse are usable by exactly the same requests. The tenant's own is `GENERAL`.

    Two scopes never share a name, whatever characters a project's or a model's name has.
    """
    parts = []
    if grant.key_id is not None:
        parts.append(f"key:{_plain(grant.key_id)}")
    if grant.project is not None:
        parts.append(f"project:{_plain(grant.project)}")
    if grant.models is not None:
        parts.append(f"models:{','.join(_plain(model) for model in sorted(set(grant.models)))}")
    name = ";".join(parts)
    return name if len(name) <= PURSE_CHARS_MAX else f"scope:{blake2b(name.encode(), digest_size=16).hexdigest()}"


def serves(grant: Grant, key_id: str, project: str | None, model: str) -> bool:
    """Tell whether a grant's scope admits a request of this key, project and model."""
    return grant.key_id in (None, key_id) and grant.project in (None, project) and (grant.models is None or model in grant.models)


def burn_key(grant: Grant) -> tuple[int, int, bool, int, bool, int, str]:
    """Order of burning: a seat's before the tenant's, priority up, expiry up (none last), promotion before paid, effective up, id up."""
    seat = 0 if grant.key_id is not None else 1 if grant.project is not None else 2
    return (seat, grant.priority, grant.expires_us is None, grant.expires_us or 0, grant.kind != "promotion", grant.effective_us, grant.id)


def _plain(name: str) -> str:
    return name.replace("%", "%25").replace(";", "%3B").replace(",", "%2C")
