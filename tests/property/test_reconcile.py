"""What a reconciliation gives back is not what somebody drew meanwhile."""

from itertools import count
from pathlib import Path

from billing.db import Database
from billing.leases import store as leases
from tests.books import grant, seed
from tests.clock import ManualClock
from tests.desk import migrated
from tests.property.reference import Reference
from tests.property.worker import TENANT, Worker


def test_what_is_drawn_while_a_reconciliation_gives_back_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "weir.db").write_bytes(migrated())
    db = Database(f"sqlite:///{tmp_path / 'weir.db'}")
    seed(db, TENANT, grant("g", 100))
    worker = Worker(db, ManualClock(), count(), Reference())
    worker.join()
    worker.ask("key_1", "m", 10, processes=3)
    worker.settle_down()
    worker.fall_silent()  # a term without beats: its leases are forgotten, and nobody has buried it
    worker.come_back()
    worker.reconcile()
    worker.turn("")
    worker.hear()  # finds what it does not know of; the giving back waits for the books thread
    worker.ask("key_1", "m", 10, processes=3)  # somebody waits for credits: this goes first
    worker.settle_down()
    with db.read() as session:
        (lease,) = leases.leases_of(session, [TENANT])[TENANT]
    (part,) = worker.parts_known()
    assert part.lease_ncr == lease.amount_ncr
    db.close()
