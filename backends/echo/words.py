"""What the echo says and how it counts: pure, and the same for the same request every time.

A token is a word with the space before it. The usage that the echo reports is exact by that definition, and by no other.
"""

import re
import struct
from base64 import b64encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated

import msgspec

SAYS = "This is an echo of what was sent:"
SAYS_NOTHING = "This is an echo: no text was sent."
DIMENSIONS = 64
DIMENSIONS_MAX = 4096

_TOKEN = re.compile(r"\s*\S+")


class Wishes(msgspec.Struct):
    """The member `echo` of a request: how this one is to be answered, for tests. Milliseconds; `cut_after` and `stall_after` count chunks."""

    first_token_ms: int | None = None
    token_ms: int | None = None
    status: int = 200
    usage: bool = True
    cut_after: int | None = None
    stall_after: int | None = None


class Part(msgspec.Struct):
    """One part of a message's content; only text is echoed."""

    type: str = "text"
    text: str | None = None


class Message(msgspec.Struct):
    """One message of a chat."""

    role: str = "user"
    content: str | list[Part] | None = None

    def text(self) -> str:
        """Join the message's text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.text)
        return self.content or ""


class StreamOptions(msgspec.Struct):
    """What the echo knows of stream options."""

    include_usage: bool = False


class Asked(msgspec.Struct):
    """What the echo reads of a request; every other member is taken and ignored."""

    model: str
    messages: list[Message] | None = None
    prompt: str | list[str] | None = None
    input: str | list[str | int | list[int]] | None = None  # an item may be a text or a list of token ids; all ints: one list of them
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = 1
    stop: str | list[str] | None = None
    dimensions: int | None = None
    encoding_format: str | None = None
    echo: Wishes | bool | None = None  # true is the old completions' own `echo`, and asks for nothing here

    def limit(self) -> int | None:
        """Return the most tokens that one choice may have."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def prompts(self) -> list[str]:
        """Return what is echoed: a chat's last message of a user, or each prompt."""
        if self.messages is not None:
            users = [message for message in self.messages if message.role == "user"]
            return [users[-1].text() if users else ""]
        return self.prompt if isinstance(self.prompt, list) else [self.prompt or ""]


def tokens(text: str) -> list[str]:
    """Split a text into the echo's tokens."""
    return _TOKEN.findall(text)


def prompt_count(asked: Asked) -> int:
    """Count the tokens that went in."""
    if asked.messages is not None:
        return sum(len(tokens(message.text())) for message in asked.messages)
    return sum(len(tokens(text)) for text in asked.prompts())


def answers(asked: Asked) -> list[tuple[list[str], str]]:
    """Return every choice as its tokens and its finish reason."""
    choices = []
    for text in asked.prompts():
        said, reason = tokens(f"{SAYS} {text}" if text.strip() else SAYS_NOTHING), "stop"
        said = _stopped("".join(said), asked.stop)
        limit = asked.limit()
        if limit is not None and len(said) > limit:
            said, reason = said[:limit], "length"
        choices += [(said, reason)] * (asked.n or 1)
    return choices


def _stopped(text: str, stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    ends = [text.find(mark) for mark in stops if mark and mark in text]
    return tokens(text[: min(ends)] if ends else text)


def inputs(asked: Asked) -> list[tuple[bytes, int]]:
    """Return every input of an embedding as bytes, with its count of tokens."""
    given = asked.input
    if isinstance(given, str):
        return [(given.encode(), len(tokens(given)))]
    if given and all(isinstance(item, int) for item in given):
        return [(msgspec.json.encode(given), len(given))]
    texts = ((item, len(tokens(item) if isinstance(item, str) else item)) for item in given or [] if not isinstance(item, int))
    return [(item.encode() if isinstance(item, str) else msgspec.json.encode(item), count) for item, count in texts]


def vector(data: bytes, dimensions: int) -> list[float]:
    """Make the unit vector of an input out of its hash: the same input has the same one, and nothing else is meant by it."""
    raw = b"".join(blake2b(data, salt=struct.pack(">Q", block)).digest() for block in range(-(-dimensions // 32)))
    values = [number / 32768 for number in struct.unpack(f">{dimensions}h", raw[: 2 * dimensions])]
    length = sum(value * value for value in values) ** 0.5 or 1.0
    return [value / length for value in values]


def in_base64(values: Sequence[float]) -> str:
    """Write a vector as the SDKs ask for it: little-endian floats of 32 bits, in base64."""
    return b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
