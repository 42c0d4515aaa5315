"""What a request used: what the upstream said of it, as far as that can be believed, and for the rest a count, marked as an estimate.

The server's own tokenizer counts where it offers one (vLLM's /tokenize), else tiktoken, off the event loop. An answer is counted by
what was really relayed; where the client set a limit, the count stays within it.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from backends import tokens
from backends.errors import BadAnswer
from backends.provider import Usage
from backends.sse import tier_of
from gateway.flow.states import Reserved

if TYPE_CHECKING:
    from backends.planner import Attempt

log = logging.getLogger("weir.estimate")


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What the upstream said. `usage` has only what can be believed; `output_min` is what one of several choices alone produced.

    `counts_output` False: what came out is left unknown (None), because there is no output (embeddings) or nobody saw any.
    """

    usage: Usage | None = None
    output_min: int = 0
    counts_output: bool = True

    @property
    def complete(self) -> bool:
        """Whether nothing has to be counted."""
        return self.usage is not None and self.usage.input is not None and (self.usage.output is not None or not self.counts_output)


def said(reserved: Reserved, attempt: "Attempt", raw: msgspec.Raw | None, *, final: bool, tier: msgspec.Raw | None = None) -> Said:
    """Read a usage object, and the service tier that stands beside it (`tier`: only where one was bought). Damage is as good as nothing said, and is logged.

    With several choices or prompts, usage before the end is of one of them only (vLLM's continuous usage), and some servers never sum.
    """
    received = reserved.admitted.received
    provider = attempt.pool.provider
    counts_output = received.call.endpoint != "embeddings"
    try:
        usage = None if raw is None else provider.usage(raw)
    except BadAnswer as error:
        log.error("request %s: %s; its usage is estimated", received.call.request_id, error)
        return Said(counts_output=counts_output)
    if tier is not None and (served := tier_of(tier)) is not None:
        usage = msgspec.structs.replace(usage or Usage(), service_tier=served)
    if usage is None or not counts_output:  # every server seen sums the inputs of a batch
        return Said(usage=usage, counts_output=counts_output)
    output_min = 0
    if not final or not provider.counts_every_choice:
        if received.wish.choices > 1:
            output_min = usage.output or 0
            usage = msgspec.structs.replace(usage, output=None, audio_out=None, reasoning=None)
        if received.wish.prompts > 1:
            usage = msgspec.structs.replace(usage, input=None, cache_read=None, cache_write_5m=None, cache_write_1h=None, audio_in=None, image_in=None)
    return Said(usage=usage, output_min=output_min)


async def estimate(reserved: Reserved, attempt: "Attempt", output: str, heard: Said, *, ask: bool = True) -> Usage:
    """Count what was not said: the prompt, and the text that was produced. What was said stays as it is. `ask`: the server's tokenizer, if it has one."""
    received = reserved.admitted.received
    usage = heard.usage or Usage()
    if usage.input is None:
        text = tokens.prompt_text(received.call.members)
        prompt = await _count(attempt, text, ask) + tokens.prompt_beside_text(received.call.members)
        usage = msgspec.structs.replace(usage, input=min(prompt, reserved.prompt_tokens_max))
    if usage.output is None and heard.counts_output:
        produced = max(await _count(attempt, output, ask) if output else 0, heard.output_min)
        if received.wish.output_max is not None:
            produced = min(produced, reserved.output_tokens_max)
        usage = msgspec.structs.replace(usage, output=produced)
    return usage


async def _count(attempt: "Attempt", text: str, ask: bool) -> int:
    counted = await attempt.pool.count(text, attempt.model) if ask else None
    if counted is not None:
        return counted
    return await asyncio.to_thread(tokens.count, text, attempt.model)
