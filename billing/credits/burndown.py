"""How usage burns down over grants: a pure fold over charges in order, so two runs in a row equal one.

Before a charge, debt is repaid from the tenant's own grants that this charge may use; then its cover is taken from the purses it names, each
purse's grants in burn order. What a purse cannot give comes from the tenant's own, and what that cannot give becomes debt. A charge may
use the grants in effect when its request began, whatever the hour it is booked at.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from billing.grants.grant import GENERAL, Grant, purse_of
from billing.leases.quantum import CAP


class Charge(msgspec.Struct, frozen=True, gc=False):
    """One event's call on the credits. `charge_ncr - cover_ncr` was used past them: invoiced when `overage`, else given away.

    `purses` says how much of the cover is whose; None: all of it the tenant's own.
    """

    started_us: int
    charge_ncr: int
    cover_ncr: int
    overage: bool
    purses: Mapping[str, int] | None = None


class Burn(msgspec.Struct, kw_only=True):
    """What became of charges (ncr). `covered` follows their order; `draws` is what each grant gave, for cover and for debt.

    sum of charges = sum(covered) + new_debt + excess + overage;  sum(draws) = sum(covered) + repaid.
    """

    charged_ncr: int = 0
    covered: list[int] = msgspec.field(default_factory=list)
    draws: dict[str, int] = msgspec.field(default_factory=dict)
    repaid_ncr: int = 0
    new_debt_ncr: int = 0
    excess_ncr: int = 0
    overage_ncr: int = 0
    debt_ncr: int = 0  # what is owed afterwards
    left: dict[str, int] = msgspec.field(default_factory=dict)  # what is left in each grant


def usable(grant: Grant, at_us: int) -> bool:
    """Tell whether a request that starts at an instant may use a grant."""
    return grant.voided_us is None and grant.effective_us <= at_us and (grant.expires_us is None or at_us < grant.expires_us)


def spendable_ncr(grants: Iterable[Grant], left: Mapping[str, int], debt_ncr: int, at_us: int) -> int:
    """Return what is `left` (by id) in the grants usable at an instant, less what is owed; below 0 only by debt."""
    return sum(left[grant.id] for grant in grants if usable(grant, at_us)) - debt_ncr


def burn(grants: Sequence[Grant], debt_ncr: int, charges: Iterable[Charge]) -> Burn:
    """Burn charges, in their order, over one tenant's grants, which come in burn order, with the debt it has. Changes none of its arguments."""
    left = {grant.id: grant.remaining_ncr for grant in grants}
    by_purse: dict[str, list[Grant]] = {GENERAL: []}
    for grant in grants:
        by_purse.setdefault(purse_of(grant), []).append(grant)
    own = by_purse[GENERAL]
    out = Burn(debt_ncr=debt_ncr, left=left)
    for charge in charges:
        if not 0 <= charge.cover_ncr <= charge.charge_ncr:
            raise ValueError(f"a charge of {charge.charge_ncr} ncr cannot be covered by {charge.cover_ncr} ncr")
        if out.debt_ncr:
            repaid = _take(own, left, out.draws, charge.started_us, out.debt_ncr)
            out.repaid_ncr += repaid
            out.debt_ncr -= repaid
        covered = 0
        if charge.purses is not None:
            for purse, wanted in charge.purses.items():
                if purse != GENERAL and not purse.startswith(CAP):
                    covered += _take(by_purse.get(purse, ()), left, out.draws, charge.started_us, min(wanted, charge.cover_ncr - covered))
        covered += _take(own, left, out.draws, charge.started_us, charge.cover_ncr - covered)
        out.covered.append(covered)
        out.charged_ncr += charge.charge_ncr
        out.new_debt_ncr += charge.cover_ncr - covered
        out.debt_ncr += charge.cover_ncr - covered
        past = charge.charge_ncr - charge.cover_ncr
        if charge.overage:
            out.overage_ncr += past
        else:
            out.excess_ncr += past
    return out


def _take(grants: Sequence[Grant], left: dict[str, int], draws: dict[str, int], at_us: int, wanted_ncr: int) -> int:
    missing = wanted_ncr
    for grant in grants:
        if not missing:
            break
        if left[grant.id] > 0 and usable(grant, at_us):
            taken = min(left[grant.id], missing)
            left[grant.id] -= taken
            draws[grant.id] = draws.get(grant.id, 0) + taken
            missing -= taken
    return wanted_ncr - missing
