"""The gateway without its meter, for the bench alone: the same road, with no hold, no charge, no journal and no books.

Started like `weir`; what it leaves out is what `metering.py` measures.
"""

from collections.abc import Awaitable
from typing import Any

import billing.credits.account as account
import billing.usage.recorder as recorder
import gateway.flow.settle as settle
from billing.credits.purse import Claims, Cover, Hold
from gateway.cli import main


def _hold(_account: account.Account, claims: Claims, _amount_ncr: int) -> Hold:
    return Hold(claims, 0, [])


def _settled(_account: account.Account, _hold: Hold, _charge_ncr: int, *, full_cover: bool) -> Cover:
    return Cover(0)


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _durable(_recorder: recorder.Recorder) -> Awaitable[object] | None:
    return None


def _free(*_: Any, **__: Any) -> int:
    return 0


account.Account.hold = _hold  # type: ignore[method-assign, assignment]
account.Account.settle = _settled  # type: ignore[method-assign, assignment]
account.Account.release = _nothing  # type: ignore[method-assign]
recorder.Recorder.dispatched = _nothing  # type: ignore[method-assign]
recorder.Recorder.settled = _nothing  # type: ignore[method-assign]
recorder.Recorder.progress = _nothing  # type: ignore[method-assign]
recorder.Recorder.durable = _durable  # type: ignore[method-assign, assignment]
settle.charge = _free
settle.Settler._event = _nothing  # type: ignore[method-assign, assignment]

if __name__ == "__main__":
    main()
