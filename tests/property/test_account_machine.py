"""An account against a plain model of it: whatever the order of holds, ends, flushes and draws, nothing is lost and no hold is broken."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from billing.credits.account import Account, Flushed, Snapshot
from billing.credits.purse import Claims, Hold, PurseState

AMOUNTS = st.integers(0, 50)


class AccountMachine(RuleBasedStateMachine):
    """`left` is what the books have, `lease` what of it is this process's; `queue` is settled and not booked."""

    holds: Bundle[Hold | None] = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.left = 200
        self.lease = 100
        self.queue: list[tuple[int, int]] = []
        self.open: list[int] = []
        self.overshoot = 0
        self.account = Account(self.snapshot())

    @property
    def claims(self) -> Claims:
        return self.account.claims("key_1", None, "m")

    def state(self) -> PurseState:
        return PurseState(name="", lease_ncr=self.lease, left_ncr=self.left, available_ncr=max(0, self.left - self.lease), limit_ncr=200, order=(2,))

    def snapshot(self) -> Snapshot:
        return Snapshot(tenant_id="t", purses=(self.state(),), valid_until_us=9, reset_us=None, past_today_ncr=0, day_ends_us=9)

    @rule(target=holds, amount=AMOUNTS)
    def hold(self, amount: int) -> Hold | None:
        free = self.claims.free_ncr
        taken = self.account.hold(self.claims, amount)
        assert (taken is not None) == (amount == 0 or amount <= free)
        if taken is not None:
            self.open.append(amount)
        return taken

    @rule(hold=consumes(holds))
    def release(self, hold: Hold | None) -> None:
        if hold is not None:
            self.account.release(hold)
            self.open.remove(hold.amount_ncr)

    @rule(hold=consumes(holds), charge=AMOUNTS)
    def settle_fast(self, hold: Hold | None, charge: int) -> None:
        if hold is not None:
            assert self.account.settle(hold, charge, full_cover=True).ncr == charge
            self.open.remove(hold.amount_ncr)
            self.queue.append((charge, 0))
            self.overshoot += max(0, charge - hold.amount_ncr)

    @rule(charge=AMOUNTS)
    def settle_slow(self, charge: int) -> None:
        free = self.claims.free_ncr
        cover = self.account.settle(self.account.open(self.claims), charge, full_cover=False).ncr
        assert cover == min(charge, max(0, free))
        self.queue.append((cover, charge - cover))

    @rule(count=st.integers(1, 4))
    def flush(self, count: int) -> None:
        batch, self.queue = self.queue[:count], self.queue[count:]
        cover = sum(one for one, _past in batch)
        self.left -= cover
        before, short = self.claims.free_ncr, max(0, cover - self.lease)
        self.lease = max(0, self.lease - cover)
        self.account.flushed(Flushed(tenant_id="t", taken={"": cover}, past_ncr=sum(past for _cover, past in batch), states=(self.state(),)))
        assert self.claims.free_ncr == before + short  # what the lease had not came from what is available, or is owed: not this process's any more

    @rule(more=AMOUNTS)
    def draw(self, more: int) -> None:
        given = max(0, min(more, self.left - self.lease))
        self.lease += given
        before = self.claims.free_ncr
        self.account.reloaded(self.snapshot())
        assert self.claims.free_ncr == before + given

    @invariant()
    def free_is_the_lease_less_unflushed_less_held(self) -> None:
        assert self.account.held_ncr == sum(self.open)
        assert self.account.open_requests == len(self.open)
        assert self.account.unflushed_ncr == sum(cover for cover, _past in self.queue)
        assert self.claims.free_ncr == self.lease - sum(cover for cover, _past in self.queue) - sum(self.open)

    @invariant()
    def below_zero_only_by_what_fast_requests_overshot(self) -> None:
        assert self.claims.free_ncr >= -self.overshoot
        assert self.left >= self.lease - self.overshoot


TestAccount = AccountMachine.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
