"""Exports as tests take them: into memory, with what the manifest says."""

import io
from typing import Any

from billing.db import Database
from billing.files.manifest import Manifest
from billing.operations.exports import Export, usage_file
from billing.operations.month import Wanted


def take(export: Export) -> tuple[bytes, Manifest]:
    """Make an export."""
    out = io.BytesIO()
    made = export.make(out)
    return out.getvalue(), made


def usage_bytes(db: Database, month: str, *, tenant_id: str | None = None, form: str = "csv", by: str = "day", **wanted: Any) -> bytes:
    """Return a month's use as a file."""
    return take(usage_file(db, Wanted(month=month, tenant_id=tenant_id, **wanted), by=by, form=form))[0]
