"""Reading what a server of OpenAI's family says it used, into disjoint buckets.

The family agrees on the outside and differs inside: cached tokens are in the prompt or beside it, reasoning in the output or
beside it, details are null or missing. Null stays None: nobody said is not zero. A count that cannot be is an error, never a guess.
"""

import msgspec
from msgspec.structs import astuple

from backends.errors import BadAnswer
from backends.provider import Usage

COUNT_MAX = 10**8  # no request is this large: above it a figure is taken for damage (the books say the same)


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None  # OpenRouter
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _Reported(msgspec.Struct):
    """Every spelling seen; what a server does not send stays None."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    cached_tokens: int | None = None  # Moonshot
    prompt_cache_hit_tokens: int | None = None  # DeepSeek, beside ...
    prompt_cache_miss_tokens: int | None = None
    input_tokens: int | None = None  # Anthropic (cache beside it) and OpenAI's responses (cache in it)
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    service_tier: object = None  # Anthropic; OpenAI says it beside the usage


_decoder = msgspec.json.Decoder(_Reported | None)
_BUCKETS = Usage.__struct_fields__[: Usage.__struct_fields__.index("service_tier")]  # the last field; before it are counts alone
_NOTHING_IN = _InputDetails()
_NOTHING_OUT = _OutputDetails()


def read_usage(raw: msgspec.Raw | bytes, *, reasoning_beside: bool = False) -> Usage | None:
    """Read a usage object; None for null and for an object that counts nothing.

    `reasoning_beside`: thoughts are counted only in the total, so the output is the total less the prompt.
    Raises `BadAnswer` for a count that is negative, absurd or no integer, and for parts larger than their whole.
    """
    try:
        reported = _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise BadAnswer(f"usage: {error}") from error
    if reported is None:
        return None
    sent, made = reported.prompt_tokens, reported.completion_tokens
    plain = reported == _Reported(sent, made, reported.total_tokens) and not reasoning_beside  # as most answers are
    if plain and sent is not None and made is not None and 0 <= sent <= COUNT_MAX and 0 <= made <= COUNT_MAX:
        return Usage(input=sent, output=made)
    prompt, beside = _prompt(reported)
    completion = reported.completion_tokens if reported.completion_tokens is not None else reported.output_tokens
    if reasoning_beside and reported.total_tokens is not None and prompt is not None:
        completion = _part(reported.total_tokens, prompt, "total_tokens")
    if prompt is None and completion is None:
        return None
    usage = _buckets(reported, prompt, completion, beside)
    for bucket, count in zip(_BUCKETS, astuple(usage), strict=False):
        if count is not None and not 0 <= count <= COUNT_MAX:
            raise BadAnswer(f"usage: {bucket} = {count} cannot be")
    return usage


def _prompt(reported: _Reported) -> tuple[int | None, bool]:
    """Return the prompt's count, and whether the cache is counted beside it (Anthropic's way) and not in it."""
    if reported.prompt_tokens is not None:
        return reported.prompt_tokens, False
    if reported.input_tokens is not None:
        return reported.input_tokens, reported.cache_read_input_tokens is not None or reported.cache_creation_input_tokens is not None
    if reported.prompt_cache_hit_tokens is not None and reported.prompt_cache_miss_tokens is not None:
        return reported.prompt_cache_hit_tokens + reported.prompt_cache_miss_tokens, False
    return None, False


def _buckets(reported: _Reported, prompt: int | None, completion: int | None, beside: bool) -> Usage:
    """Take the parts out of their wholes, so that no token is in two buckets."""
    told = reported.prompt_tokens_details or reported.input_tokens_details or _NOTHING_IN
    made = reported.completion_tokens_details or reported.output_tokens_details or _NOTHING_OUT
    read = _first(told.cached_tokens, reported.prompt_cache_hit_tokens, reported.cached_tokens, reported.cache_read_input_tokens)
    write_5m, write_1h = _writes(reported, told)
    rest = prompt if beside else _part(prompt, (read or 0) + (write_5m or 0) + (write_1h or 0), "prompt_tokens")
    audio, image = told.audio_tokens, told.image_tokens
    if rest is not None:  # cached audio is counted as cached
        audio = None if audio is None else min(_sane(audio, prompt), rest)
        image = None if image is None else min(_sane(image, prompt), rest - (audio or 0))
        rest -= (audio or 0) + (image or 0)
    reasoning = made.reasoning_tokens
    spoken = made.audio_tokens
    output = _part(completion, spoken or 0, "completion_tokens")
    if reasoning is not None and completion is not None and reasoning > completion:
        raise BadAnswer(f"usage: {reasoning} tokens of reasoning in an output of {completion}")
    if reasoning is not None and output is not None:
        reasoning = min(_sane(reasoning, None), output)
    return Usage(
        input=rest, cache_read=read, cache_write_5m=write_5m, cache_write_1h=write_1h, audio_in=audio, image_in=image,
        output=output, audio_out=spoken, reasoning=reasoning,
        service_tier=reported.service_tier if isinstance(reported.service_tier, str) else None,
    )  # fmt: skip


def _writes(reported: _Reported, told: _InputDetails) -> tuple[int | None, int | None]:
    """Return what was written to the cache, by how long it is kept; a server that does not say how long means five minutes."""
    if reported.cache_creation is not None:
        return reported.cache_creation.ephemeral_5m_input_tokens, reported.cache_creation.ephemeral_1h_input_tokens
    return _first(reported.cache_creation_input_tokens, told.cache_write_tokens), None


def _first(*counts: int | None) -> int | None:
    for count in counts:
        if count is not None:
            return count
    return None


def _part(whole: int | None, part: int, name: str) -> int | None:
    if whole is None:
        return None
    if part > whole:
        raise BadAnswer(f"usage: {name} = {whole}, but its parts are {part}")
    return whole - part


def _sane(count: int, whole: int | None) -> int:
    if count < 0 or (whole is not None and count > whole):
        raise BadAnswer(f"usage: {count} tokens of a kind in a whole of {whole}")
    return count
