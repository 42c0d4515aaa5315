"""Model servers while the gateways run: drain one, restore it, weigh it. Each function is one transaction; running gateways follow within a second."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from billing.audit.store import record
from billing.db import Database
from billing.errors import Invalid
from billing.servers import store
from billing.servers.store import Server
from billing.tenants.store import note_change

WEIGHT_MAX = 1000


def list_servers(db: Database) -> list[Server]:
    """Return every server of which something was said; the others are as they are configured."""
    with db.read() as session:
        return store.all_servers(session)


def change_servers(
    db: Database, backend: str, urls: Sequence[str], *, draining: bool | UnsetType = UNSET, weight: int | UnsetType | None = UNSET, now_us: int
) -> list[Server]:
    """Drain or restore servers of a backend, or give them a weight (None: the configured one); what is left out stays. Raises `Invalid`.

    That there are such servers is for the caller to see: the configuration is not in the books.
    """
    if isinstance(draining, UnsetType) and isinstance(weight, UnsetType):
        raise Invalid("draining", "nothing to change: give draining or weight")
    if isinstance(weight, int) and not 1 <= weight <= WEIGHT_MAX:
        raise Invalid("weight", f"weight: {weight} is out of range; 1 to {WEIGHT_MAX} (to send nothing, drain it)")
    given = {field: value for field, value in (("draining", draining), ("weight", weight)) if not isinstance(value, UnsetType)}
    with db.write() as session:
        note_change(session, None, now_us)
        before = [store.get_server(session, backend, url) for url in urls]
        changed = [msgspec.structs.replace(server, **given) for server in before]
        for server in changed:
            store.set_server(session, server)
        record(session, now_us, action="backend.change", tenant_id=None, subject=backend, before=before, after=changed)
    return changed
