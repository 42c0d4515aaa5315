"""Everything that `billing` refuses, as one tree.

    BillingError
     +-- Invalid            an argument is wrong: which one, and what would be right
     +-- NotFound           the thing named does not exist
     +-- Conflict           the thing exists already, or is in a state that forbids this
     +-- RateMissing        a model, or a bucket of its usage, has no price
     +-- CostMissing        what a backend charges for a model, or for a bucket of its usage, is not in the cost book
     +-- BooksUnavailable   the database or the journal cannot take an entry now
          +-- BooksContended   another transaction stood in the way; nothing was written, the same may succeed now
          +-- BooksLocked      somebody holds a lock longer than we wait for one; nothing was written, and what needs another lock may succeed

Texts are written for the person who reads them: what, where, and what to do. They hold no secret.
"""


class BillingError(Exception):
    """Base of the tree; `str(error)` is fit to be shown to an admin."""


class Invalid(BillingError):
    """An argument is wrong. `field` names it in the caller's own words; `command` is what shows the right ones to a person at a command line."""

    def __init__(self, field: str, message: str, *, command: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.command = command

    def named(self, name: str) -> str:
        """Return the message with the argument called as the caller calls it, where the message begins with its name."""
        called, colon, rest = str(self).partition(": ")
        own = (self.field, self.field.removesuffix("_us"), self.field.removesuffix("_id"), "rate")  # as the rooms begin their messages
        return f"{name}: {rest}" if colon and called in own else str(self)


class NotFound(BillingError):
    """The thing named does not exist. `kind` is its noun: tenant, key, plan, grant, rate."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} `{name}`")
        self.kind = kind
        self.name = name


class Conflict(BillingError):
    """The thing exists already, or its state forbids what was asked."""


class RateMissing(BillingError):
    """A price is missing. A missing price is never zero: an admin sets it, or marks the model free."""

    def __init__(self, model: str, bucket: str | None = None) -> None:
        what = f"`{bucket}` of model `{model}`" if bucket else f"model `{model}`"
        super().__init__(f"no rate is set for {what}; set one with: weir rate set {model} --input CREDITS --output CREDITS (per 1,000,000 tokens), or --free")
        self.model = model
        self.bucket = bucket


class CostMissing(BillingError):
    """The cost book has no price for what was used. A missing cost is never zero: an admin sets it, or marks the model free there."""

    def __init__(self, backend: str, model: str, bucket: str | None = None) -> None:
        what = f"`{bucket}` of model `{model}` at backend `{backend}`" if bucket else f"model `{model}` at backend `{backend}`"
        super().__init__(f"no cost is set for {what}; set it with: weir cost set {backend} {model} --input PRICE --output PRICE --currency USD, or --free")
        self.backend = backend
        self.model = model
        self.bucket = bucket


class BooksUnavailable(BillingError):
    """The journal or the database cannot take an entry now (disk full, backlog over its bound)."""


class BooksContended(BooksUnavailable):
    """Two transactions stood in each other's way (a deadlock, a serialization failure) and this one was undone; it may be tried again at once."""


class BooksLocked(BooksUnavailable):
    """Somebody holds a lock longer than we wait for one, and this transaction was undone; others, that need other rows, may go on."""
