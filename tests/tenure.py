"""A process's name among those that share the credits, without the beating."""

from billing.credits.draw import Member
from billing.db import Database
from billing.leases import store as leases
from billing.leases.store import Replica
from tests.clock import START_US


class FixedTenure:
    """In the books from the start, under one name; `processes` says how many it believes to share with."""

    def __init__(self, db: Database, replica_id: str = "r1", *, processes: int = 1) -> None:
        self.member = Member(replica_id=replica_id, beats=(1,), processes=processes)
        self.displacements = 0
        with db.write() as session:
            leases.register(session, Replica(id=replica_id, beat=1, host="here", pid=1, started_us=START_US))

    def displaced(self, replica_id: str) -> None:
        assert replica_id == self.member.replica_id
        self.displacements += 1
