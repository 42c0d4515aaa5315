"""Everything that can go wrong between here and a model server, as one tree.

    BackendError
     +-- Unreachable        no connection could be made, or it was lost before the first byte: another attempt is safe
     +-- Disconnected       the connection was lost after the answer began: no other attempt may be made
     +-- TimedOut           `phase` is connect, first_byte, idle or total
     +-- BadAnswer          the server answered, but not in its own protocol (HTML, garbage, absurd usage)
     +-- Saturated          every replica of the backend is ejected or draining
     +-- ChildFailed        a server that we run ourselves did not become ready; the text holds its last words
     +-- BadConfig          a backend, vendor or model mapping is wrong; found at start

`str(error)` names backends, addresses and causes: it is for the log, never for a client.
"""


class BackendError(Exception):
    """Base of the tree."""


class Unreachable(BackendError):
    """No byte of an answer was seen; the request may be tried elsewhere."""


class Disconnected(BackendError):
    """The answer broke off after it had begun."""


class TimedOut(BackendError):
    """A phase took longer than its limit."""

    def __init__(self, phase: str, limit_s: float) -> None:
        super().__init__(f"{phase} took longer than {limit_s:g} s")
        self.phase = phase


class BadAnswer(BackendError):
    """The server's answer is not what its protocol allows."""


class Saturated(BackendError):
    """No replica can take a request now."""


class ChildFailed(BackendError):
    """A server of our own ended or stayed silent before it was ready."""


class BadConfig(BackendError):
    """The configuration of backends is wrong; the text says where and what to do."""
