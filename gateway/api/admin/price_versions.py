"""/admin/price-versions: rates or costs that are proposed together, looked at, and published or withdrawn. What is published is never changed."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import AwareDatetime, BaseModel, Field, model_validator

from billing.operations import versions
from billing.operations.versions import Version
from billing.rates.version import Book
from gateway.auth.admin import AdminDesk
from gateway.config.prices import ProposalForm, price_text, variant_figures
from gateway.wire.instants import from_us, to_us
from gateway.wire.problems import problem_router

router = problem_router("/price-versions")

BookName = Literal["rates", "costs"]
VersionId = Annotated[int, Path(ge=1, le=2**62)]


class ProposalNew(ProposalForm):
    """Prices to propose: `rates` or `costs`, not both. null instead of prices: the model is to have none any more."""

    note: str = Field("", max_length=500)
    effective_at: AwareDatetime | None = Field(None, description="from when they are to apply; absent: from when they are published")

    @model_validator(mode="after")
    def _is_of_one_book(self) -> "ProposalNew":
        if bool(self.rates) == bool(self.costs):
            raise ValueError("propose `rates` or `costs`: one of them, with at least one model")
        return self


class PublishNew(BaseModel):
    """From when a proposal is to apply. Absent: from the instant it was proposed for, else from now."""

    effective_at: AwareDatetime | None = None


class ChangeOut(BaseModel):
    """A model's prices in a version; `ended`: none any more."""

    backend: str | None
    model: str
    currency: str | None
    free: bool
    ended: bool
    prices: dict[str, str]
    variants: list[dict[str, Any]]


class VersionOut(BaseModel):
    """A version, and what became of it."""

    id: int
    book: BookName
    state: Literal["proposed", "published", "withdrawn"]
    note: str
    effective_at: datetime | None
    created_at: datetime
    published_at: datetime | None
    withdrawn_at: datetime | None
    changes: list[ChangeOut]


class DifferenceOut(BaseModel):
    """A price that changes: as decimal text, null where there is none. `percent` is null from 0, from nothing, and from another currency."""

    backend: str | None
    model: str
    when: str
    bucket: str
    old: str | None
    new: str | None
    percent: str | None
    currency: str | None
    old_currency: str | None


class DiffOut(BaseModel):
    """A version against what applies at `at`; `losing` are models that would have no price any more."""

    version_id: int
    at: datetime
    lines: list[DifferenceOut]
    losing: list[dict[str, str]]


@router.post("", summary="Propose rates or costs", status_code=201)
def create(body: ProposalNew, desk: AdminDesk) -> VersionOut:
    """Write a proposal down; nothing applies before it is published."""
    book: Book = "rates" if body.rates else "costs"
    effective_us = None if body.effective_at is None else to_us(body.effective_at)
    return _out(versions.propose_version(desk.database, book, body.changes(), note=body.note, effective_us=effective_us, now_us=desk.now_us()))


@router.get("", summary="List versions of rates or costs")
def index(desk: AdminDesk, book: BookName = "rates") -> list[VersionOut]:
    """List every version of a book, oldest first."""
    return [_out(version) for version in versions.list_versions(desk.database, book)]


@router.get("/{version_id}/diff", summary="Compare a version with what applies")
def diff(version_id: VersionId, desk: AdminDesk, book: BookName = "rates") -> DiffOut:
    """Compare a version with what applies at its instant without it: each price that changes."""
    found = versions.diff_version(desk.database, book, version_id, desk.now_us())
    lines = [
        DifferenceOut(
            backend=line.backend or None,
            model=line.model,
            when=line.when,
            bucket=line.bucket,
            old=None if line.old is None else price_text(book, line.bucket, line.old),
            new=None if line.new is None else price_text(book, line.bucket, line.new),
            percent=line.percent,
            currency=line.currency or None,
            old_currency=line.old_currency or None,
        )
        for line in found.lines
    ]
    losing = [{"backend": backend, "model": model} if backend else {"model": model} for backend, model in found.losing]
    return DiffOut(version_id=version_id, at=from_us(found.at_us), lines=lines, losing=losing)


@router.post("/{version_id}/publish", summary="Publish a proposal")
def publish(version_id: VersionId, desk: AdminDesk, body: PublishNew | None = None, book: BookName = "rates") -> VersionOut:
    """Let a proposal apply from an instant on. It is never changed after."""
    effective_us = None if body is None or body.effective_at is None else to_us(body.effective_at)
    made = versions.publish_version(desk.database, book, version_id, effective_us=effective_us, now_us=desk.now_us())
    desk.changed()
    return _out(made)


@router.post("/{version_id}/withdraw", summary="Withdraw a proposal")
def withdraw(version_id: VersionId, desk: AdminDesk, book: BookName = "rates") -> VersionOut:
    """Give a proposal up; it is kept, and cannot be published any more."""
    return _out(versions.withdraw_version(desk.database, book, version_id, desk.now_us()))


def _out(version: Version) -> VersionOut:
    changes = [
        ChangeOut(
            backend=change.backend or None,
            model=change.model,
            currency=change.currency or None,
            free=change.free,
            ended=change.ended,
            prices={bucket: price_text(version.book, bucket, price) for bucket, price in change.prices.items()},
            variants=variant_figures(version.book, change.variants),
        )
        for change in version.changes
    ]
    return VersionOut(
        id=version.id,
        book=version.book,
        state=version.state,
        note=version.note,
        effective_at=_at(version.effective_us),
        created_at=from_us(version.created_us),
        published_at=_at(version.published_us),
        withdrawn_at=_at(version.withdrawn_us),
        changes=changes,
    )


def _at(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)
