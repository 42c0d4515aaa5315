"""Which backends a request is tried at, and in what order: a public model's routes, less the backends that are down.

Pure over a snapshot: nothing is asked and nothing is awaited. If every backend of a model is down, all are tried all the same: what we
know may be old, and a refusal costs little.
"""

from collections.abc import Mapping

import msgspec

from backends.config import ModelConfig
from backends.errors import BadConfig
from backends.pool import Pool


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try: a backend (its name, and its pool), and what the model is called there."""

    backend: str
    pool: Pool
    model: str


class Planner:
    """Knows every public model."""

    def __init__(self, models: Mapping[str, ModelConfig], pools: Mapping[str, Pool]) -> None:
        """Resolve every route once. Raises `BadConfig` for a route to a backend that does not exist, or the same one twice."""
        self.contexts = {name: config.context_tokens for name, config in models.items()}
        self._attempts: dict[str, tuple[Attempt, ...]] = {}
        for name, config in models.items():
            missing = [route.backend for route in config.routes if route.backend not in pools]
            if missing:
                raise BadConfig(f"model {name}: there is no backend `{missing[0]}`; one of {', '.join(sorted(pools)) or '(none)'}")
            if len({(route.backend, route.model) for route in config.routes}) != len(config.routes):
                raise BadConfig(f"model {name}: the same route twice")
            self._attempts[name] = tuple(Attempt(backend=route.backend, pool=pools[route.backend], model=route.model) for route in config.routes)

    def plan(self, model: str) -> tuple[Attempt, ...]:
        """Return the attempts for a public model in their order, at least one; empty for an unknown model."""
        attempts = self._attempts.get(model, ())
        if len(attempts) <= 1:
            return attempts
        up = tuple(attempt for attempt in attempts if attempt.pool.up)
        return up or attempts

    def context_tokens(self, model: str) -> int | None:
        """Return the most tokens that a prompt of a public model can have: as configured, or else the longest context that its backends
        have named; None as long as one of them has named none."""
        configured = self.contexts.get(model)
        if configured is not None:
            return configured
        longest = 0
        for attempt in self._attempts.get(model, ()):
            said = attempt.pool.context_tokens(attempt.model)
            if said is None:
                return None
            longest = max(longest, said)
        return longest or None
