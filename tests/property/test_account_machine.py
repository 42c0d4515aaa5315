"""An account against a plain model of it: whatever the order of holds, ends, flushes and reloads, nothing is lost and no hold is broken."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from billing.credits.account import Account, Flushed, Snapshot

AMOUNTS = st.integers(0, 50)


class AccountMachine(RuleBasedStateMachine):
    """`truth` is what the books would say with everything booked; `queue` is settled and not booked."""

    holds: Bundle[int] = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.booked = 100
        self.queue: list[tuple[int, int]] = []
        self.open: list[int] = []
        self.overshoot = 0
        self.account = Account(self.snapshot())

    def snapshot(self) -> Snapshot:
        return Snapshot(tenant_id="t", spendable_ncr=self.booked, limit_ncr=100, valid_until_us=9, reset_us=None, past_today_ncr=0, day_ends_us=9)

    @rule(target=holds, amount=AMOUNTS)
    def hold(self, amount: int) -> int:
        free = self.account.free_ncr
        taken = self.account.hold(amount)
        assert taken == (amount == 0 or amount <= free)
        if taken:
            self.open.append(amount)
        return amount if taken else -1

    @rule(amount=consumes(holds))
    def release(self, amount: int) -> None:
        if amount >= 0:
            self.account.release(amount)
            self.open.remove(amount)

    @rule(amount=consumes(holds), charge=AMOUNTS)
    def settle_fast(self, amount: int, charge: int) -> None:
        if amount >= 0:
            assert self.account.settle(amount, charge, full_cover=True) == charge
            self.open.remove(amount)
            self.queue.append((charge, 0))
            self.overshoot += max(0, charge - amount)

    @rule(charge=AMOUNTS)
    def settle_slow(self, charge: int) -> None:
        free = self.account.free_ncr
        self.account.open()
        cover = self.account.settle(0, charge, full_cover=False)
        assert cover == min(charge, max(0, free))
        self.queue.append((cover, charge - cover))

    @rule(count=st.integers(1, 4))
    def flush(self, count: int) -> None:
        batch, self.queue = self.queue[:count], self.queue[count:]
        cover = sum(one for one, _past in batch)
        self.booked -= cover
        before = self.account.free_ncr
        self.account.flushed(Flushed(tenant_id="t", cover_ncr=cover, past_ncr=sum(past for _cover, past in batch), spendable_ncr=self.booked))
        assert self.account.free_ncr == before

    @rule(more=AMOUNTS)
    def grant_and_reload(self, more: int) -> None:
        self.booked += more
        before = self.account.free_ncr
        self.account.reloaded(self.snapshot())
        assert self.account.free_ncr == before + more

    @invariant()
    def free_is_base_less_unflushed_less_held(self) -> None:
        assert self.account.held_ncr == sum(self.open)
        assert self.account.open_requests == len(self.open)
        assert self.account.unflushed_ncr == sum(cover for cover, _past in self.queue)
        assert self.account.free_ncr == self.booked - sum(cover for cover, _past in self.queue) - sum(self.open)

    @invariant()
    def below_zero_only_by_what_fast_requests_overshot(self) -> None:
        assert self.account.free_ncr >= -self.overshoot


TestAccount = AccountMachine.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
