"""What a request used when the upstream did not say: counted, clamped, and marked as an estimate.

The server's own tokenizer counts where it offers one (vLLM's /tokenize), else tiktoken, off the event loop. A count never exceeds
what was held for it, so an estimate cannot cost more than the request was admitted for.
"""

import asyncio
from typing import TYPE_CHECKING

from backends import tokens
from backends.provider import Usage
from gateway.flow.states import Reserved

if TYPE_CHECKING:
    from backends.planner import Attempt


async def estimate(reserved: Reserved, attempt: "Attempt", output: str, known: Usage | None = None) -> Usage:
    """Count a request's prompt and the text it was answered with so far; figures that are `known` are kept."""
    call = reserved.admitted.received.call
    prompt = known.input if known is not None and known.input is not None else None
    if prompt is None:
        prompt = await _count(attempt, tokens.prompt_text(call.members))
    produced = await _count(attempt, output) if output else 0
    if known is not None and known.output is not None:
        produced = max(produced, known.output)
    return Usage(input=min(prompt, reserved.prompt_tokens_max), output=min(produced, reserved.output_tokens_max))


async def _count(attempt: "Attempt", text: str) -> int:
    counted = await attempt.pool.count(text, attempt.model)
    if counted is not None:
        return counted
    return await asyncio.to_thread(tokens.count, text, attempt.model)
