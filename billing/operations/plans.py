"""Plans: write one (each writing is a new version) and list them. Each function is one transaction."""

from billing.audit.store import record
from billing.db import Database
from billing.errors import NotFound
from billing.plans import store
from billing.plans.terms import PlanTerms, PlanVersion, check_terms
from billing.tenants.store import note_change
from billing.tenants.tenant import check_slug


def set_plan(db: Database, terms: PlanTerms, now_us: int) -> PlanVersion:
    """Write a plan, or the next version of one. Tenants keep the version they are on until `change_plan`. Raises `Invalid`."""
    check_slug("plan", terms.plan)
    check_terms(terms)
    with db.write() as session:
        note_change(session, None, now_us)
        before = store.latest_version(session, terms.plan)
        after = store.add_version(session, terms, now_us)
        record(session, now_us, action="plan.set", tenant_id=None, subject=terms.plan, before=before, after=after)
        return after


def get_plan(db: Database, plan: str) -> PlanVersion:
    """Return the newest version of a plan. Raises `NotFound`."""
    with db.read() as session:
        version = store.latest_version(session, plan)
    if version is None:
        raise NotFound("plan", plan)
    return version


def list_plans(db: Database, *, all_versions: bool = False) -> list[PlanVersion]:
    """Return the newest version of every plan, by plan; or every version there is."""
    with db.read() as session:
        versions = store.all_versions(session)
    return versions if all_versions else list({version.terms.plan: version for version in versions}.values())


def count_subscribers(db: Database, now_us: int) -> dict[tuple[str, int], int]:
    """Count the tenants on each (plan, version) now; a version nobody is on is left out."""
    with db.read() as session:
        return store.subscriber_counts(session, now_us)
