"""A dry run over HTTP: with `?dry_run=true` a change is done in a transaction that is undone, and the answer is what it would have been.

It says so: `x-weir-dry-run: true`. Endpoints that move credits or money take a `ChangingDesk` in place of an `AdminDesk`, and know nothing more of it.
"""

import copy
from collections.abc import Generator
from typing import Annotated

from fastapi import Depends, Query, Response

from gateway.auth.admin import AdminDesk, Desk


def open_changing_desk(
    desk: AdminDesk, response: Response, dry_run: Annotated[bool, Query(description="say what would happen, and do nothing")] = False
) -> Generator[Desk]:
    """Yield the desk itself, or one at which nothing stays."""
    if not dry_run:
        yield desk
        return
    response.headers["x-weir-dry-run"] = "true"
    with desk.database.rehearsing() as database:
        rehearsal = copy.copy(desk)
        rehearsal.database = database
        yield rehearsal


ChangingDesk = Annotated[Desk, Depends(open_changing_desk)]
