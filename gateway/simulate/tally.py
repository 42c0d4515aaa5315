"""What happened, added up as it happens: by hour, plan and lane, and by tenant. Pure.

An hour is of the trial, from its beginning. Memory follows hours, plans and tenants, not requests.
"""

from gateway.lanes.standing import Lane, Standing
from gateway.simulate.traffic import HOUR_US
from gateway.simulate.waits import Waits

COUNTS = (
    "arrived",  # requests that came for the first time, in the lane that they were first given
    "served",
    "refused",  # given up: told to come later more often than the client tries, or not to come again
    "capped",  # past the credits, where the plan blocks or the day's cap is reached
    "turned_away",  # answers that said "later", whether or not the client came again
    "retried",
    "starved",  # had waited past the lane's age limit when its slot came, or were given up in the slow lane
    "spilled",
    "input_tokens",
    "output_tokens",
    "weighted_tokens",
    "charge_ncr",
    "cover_ncr",
    "excess_ncr",
    "overage_ncr",
    "slot_us",
    "backlog_tokens",  # weighted tokens granted to tenants that kept waiting (`tenant.Backlog`)
    "backlog_fair_tokens",  # what would have been their share by weight
)


class Cell:
    """The figures of one plan in one lane during one hour, or of several added up."""

    __slots__ = (*COUNTS, "waits")

    arrived: int
    served: int
    refused: int
    capped: int
    turned_away: int
    retried: int
    starved: int
    spilled: int
    input_tokens: int
    output_tokens: int
    weighted_tokens: int
    charge_ncr: int
    cover_ncr: int
    excess_ncr: int
    overage_ncr: int
    slot_us: int
    backlog_tokens: int
    backlog_fair_tokens: int

    def __init__(self) -> None:
        for name in COUNTS:
            setattr(self, name, 0)
        self.waits = Waits()

    def merge(self, other: "Cell") -> None:
        """Add another's figures."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.waits.merge(other.waits)


class TenantSums:
    """One tenant's figures. `stood_us` by standing; `overage_ncr` by the day (its start, microseconds) and model that are invoiced in one line."""

    __slots__ = (
        "arrived", "capped", "charge_ncr", "cover_ncr", "excess_ncr", "input_tokens", "longest_us", "output_tokens", "overage_ncr", "refused", "served",
        "stood_us", "wait_us",
    )  # fmt: skip

    def __init__(self) -> None:
        self.arrived = self.refused = self.capped = self.input_tokens = self.output_tokens = 0
        self.charge_ncr = self.cover_ncr = self.excess_ncr = self.wait_us = self.longest_us = 0
        self.served = dict.fromkeys(Lane, 0)
        self.overage_ncr: dict[tuple[int, str], int] = {}
        self.stood_us = dict.fromkeys(Standing, 0)


class Hour:
    """One hour: a cell for each plan and lane, how long tenants stood how (by plan), and how long slots were taken (slots x microseconds)."""

    __slots__ = ("cells", "ran_us", "stood_us")

    def __init__(self, plans: int) -> None:
        self.cells = {(plan, lane): Cell() for plan in range(plans) for lane in Lane}
        self.stood_us = [dict.fromkeys(Standing, 0) for _ in range(plans)]
        self.ran_us = 0


class Tally:
    """Everything that is counted of one trial. `turn` must be called at every hour's end."""

    def __init__(self, plans: int, start_us: int) -> None:
        self.start_us = start_us
        self.plans = plans
        self.hours = [Hour(plans)]
        self.current = self.hours[0]
        self._running = 0
        self._ran_at_us = start_us

    def cell(self, plan: int, lane: Lane) -> Cell:
        """Return the cell of a plan and lane in the hour that runs."""
        return self.current.cells[plan, lane]

    def ran(self, running: int, now_us: int) -> None:
        """Note that so many slots are taken from now on."""
        self.current.ran_us += self._running * (now_us - self._ran_at_us)
        self._running, self._ran_at_us = running, now_us

    def stood(self, plan: int, sums: TenantSums, standing: Standing, elapsed_us: int) -> None:
        """Note how a tenant stood for how long."""
        sums.stood_us[standing] += elapsed_us
        self.current.stood_us[plan][standing] += elapsed_us

    def turn(self) -> None:
        """Begin the next hour."""
        self.current = Hour(self.plans)
        self.hours.append(self.current)

    def total(self, plan: int, lane: Lane) -> Cell:
        """Add a plan's cells in a lane up over the hours."""
        whole = Cell()
        for hour in self.hours:
            whole.merge(hour.cells[plan, lane])
        return whole

    def hour_us(self, index: int) -> int:
        """Return when an hour began."""
        return self.start_us + index * HOUR_US
