"""One file per policy of choosing among the replicas that could take a request: `picker: weighted` is `pickers/weighted.py` and its `build`.

A picker is pure arithmetic over what replicas say of themselves. It is asked once per attempt, on one event loop, and may remember its turns.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

from backends.errors import BadConfig
from backends.replica import Replica


class Picker(Protocol):
    """One policy."""

    def pick(self, candidates: Sequence[Replica]) -> Replica:
        """Choose one of at least one candidate."""
        ...


def picker_names() -> list[str]:
    """List the policies there are."""
    return sorted(module.name for module in iter_modules(__path__))


def build_picker(name: str) -> Picker:
    """Make a picker. Raises `BadConfig` for an unknown policy."""
    if name not in picker_names():
        raise BadConfig(f"there is no picker `{name}`; one of {', '.join(picker_names())}")
    build: Callable[[], Picker] = import_module(f"{__name__}.{name}").build
    return build()
