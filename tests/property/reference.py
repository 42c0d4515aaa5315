"""The reference model of the books: one nano-credit at a time, by the words of the specification and nothing cleverer. Slow, short, to be believed.

It knows no leases and no processes: it is told grants, events in the order of their booking, voids and expiries, and says what must be left.
"""

from collections import Counter
from dataclasses import dataclass, field

from billing.grants.grant import Grant
from billing.usage.event import UsageEvent

ENDLESS = 2**62


@dataclass
class Given:
    """A grant, and what became of it."""

    grant: Grant
    remaining: int
    consumed: int = 0
    expired: int = 0
    voided: int = 0
    void: bool = False

    def usable(self, at_us: int) -> bool:
        return not self.void and self.grant.effective_us <= at_us < (self.grant.expires_us or ENDLESS)

    @property
    def scope(self) -> tuple[str | None, tuple[str, ...] | None]:
        return (self.grant.key_id, self.grant.models)

    @property
    def order(self) -> tuple[int, int, int, bool, int, str]:
        """Burn order: seat first, priority up, the first to expire, promotion before paid, effective up, id up."""
        one = self.grant
        return (int(one.key_id is None), one.priority, one.expires_us or ENDLESS, one.kind != "promotion", one.effective_us, one.id)


@dataclass
class Reference:
    """What the books must say."""

    given: dict[str, Given] = field(default_factory=dict)
    told: dict[str, UsageEvent] = field(default_factory=dict)
    covered: Counter[str] = field(default_factory=Counter)
    debt: int = 0
    repaid: int = 0

    def tell(self, event: UsageEvent) -> None:
        """Book one event, if it is new: repay debt, then pay from the purses it names, then from the tenant's own, and owe the rest."""
        if event.id in self.told:
            return
        self.told[event.id] = event
        while self.debt and self._pay((None, None), event.started_us):
            self.debt -= 1
            self.repaid += 1
        left = event.cover_ncr
        for purse, wanted in (event.purses or {}).items():
            scope = self._scope(purse)
            for _ in range(min(wanted, left) if scope != (None, None) else 0):
                left -= self._pay(scope, event.started_us)
        while left and self._pay((None, None), event.started_us):
            left -= 1
        self.covered[event.id] = event.cover_ncr - left
        self.debt += left

    def void(self, grant_id: str) -> int:
        """Take back what is left of a grant; return it."""
        one = self.given[grant_id]
        left, one.remaining, one.void = one.remaining, 0, True
        one.voided += left
        return left

    def close(self, by_us: int) -> None:
        """Expire what is left in grants that ended by an instant."""
        for one in self.given.values():
            if not one.void and (one.grant.expires_us or ENDLESS) <= by_us:
                one.expired, one.remaining = one.expired + one.remaining, 0

    def left(self, purse: str, at_us: int) -> int:
        """Say what is there for a purse now: its usable grants, less debt where it is the tenant's own."""
        scope = self._scope(purse)
        return sum(one.remaining for one in self.given.values() if one.scope == scope and one.usable(at_us)) - (self.debt if scope == (None, None) else 0)

    def _pay(self, scope: tuple[str | None, tuple[str, ...] | None], at_us: int) -> int:
        usable = [one for one in self.given.values() if one.scope == scope and one.remaining and one.usable(at_us)]
        if not usable:
            return 0
        first = min(usable, key=lambda one: one.order)
        first.remaining -= 1
        first.consumed += 1
        return 1

    def _scope(self, purse: str) -> tuple[str | None, tuple[str, ...] | None]:
        kind, _, name = purse.partition(":")
        return (name if kind == "key" else None, tuple(name.split(",")) if kind == "models" else None)
