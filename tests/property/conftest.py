"""These tests let time go by in leaps with nothing in between, which no job would believe."""

from collections.abc import Iterator

import pytest

from billing.jobs import expire_grants


@pytest.fixture(autouse=True, scope="module")
def _leaps_of_time_are_believed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(expire_grants, "BEHIND_US_MAX", 10**18)
        yield
