"""/admin/tenants/import: many tenants from one CSV file, all of them or none."""

from typing import Annotated, Literal

from fastapi import Body, Response
from pydantic import BaseModel

from billing.operations.imports import OWN, import_tenants
from billing.operations.profiles import FIELDS
from billing.operations.sheets import ImportRefused
from gateway.auth.rehearsal import ChangingDesk
from gateway.wire.problems import FieldProblem, ProblemRoute, problem, problem_router
from gateway.wire.sheets import SHOWN, shown


class FileRoute(ProblemRoute):
    """A route that takes files."""

    body_bytes_max = 4 * 2**20


router = problem_router("/tenants/import", FileRoute)


class RowDone(BaseModel):
    """What became of a row, by the line on which it begins; `none`: it says what is so already."""

    line: int
    id: str
    action: Literal["create", "update", "none"]


class ImportOut(BaseModel):
    """What became of a file."""

    created: int
    updated: int
    unchanged: int
    rows: list[RowDone]


@router.post("", summary="Import tenants from a CSV file", response_model=ImportOut)
def take(
    body: Annotated[bytes, Body(media_type="text/csv", description=f"UTF-8; columns: {', '.join((*OWN, *FIELDS))}; `id` is needed")],
    desk: ChangingDesk,
    update: bool = False,
) -> ImportOut | Response:
    """Import tenants, all of them or none. With `update` rows may name tenants that are there, and change them: a column that is left out stays.

    A 422 names every fault of every row in `errors`, as `line 3, country`.
    """
    try:
        done = import_tenants(desk.database, body, desk.now_us(), update=update, shown=shown, shows=SHOWN)
    except ImportRefused as error:
        faults = [FieldProblem(field=f"line {one.line}, {one.field or 'row'}", message=one.message) for one in error.faults]
        return problem(422, "invalid", str(error), faults)
    desk.changed()
    count = [row.action for row in done].count
    return ImportOut(
        created=count("create"),
        updated=count("update"),
        unchanged=count("none"),
        rows=[RowDone(line=row.line, id=row.id, action=row.action) for row in done],
    )
