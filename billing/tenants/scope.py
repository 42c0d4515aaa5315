"""The one tenant whose things somebody may see and touch.

What a tenant's own people can reach takes a `TenantScope` in place of a database and a tenant's id. The sign-in makes it, from a key or a token, and nobody
else does: nothing that a request says can turn into one. A test reads the code and sees to both.
"""

import msgspec

from billing.db import Database


class TenantScope(msgspec.Struct, frozen=True):
    """The books, as far as they are one tenant's."""

    database: Database
    tenant_id: str
