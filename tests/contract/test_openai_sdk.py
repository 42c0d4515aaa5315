"""The real OpenAI SDK over every endpoint, against the echo, the embedded local server and vLLM.

Whatever answers, the cost in the answer is the rate times the usage in the answer, and the booked event says the same.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from billing.money import NCR_PER_CREDIT
from billing.usage.table import UsageEventRow
from tests.house import PRICES, House, open_house
from tests.real.servers import ModelServer

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]
BACKENDS = ["echo", pytest.param("local", marks=pytest.mark.slow), pytest.param("vllm", marks=pytest.mark.vllm)]


@pytest.fixture(params=BACKENDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    upstreams: dict[str, Any] = {}
    if request.param != "echo":
        server: ModelServer = request.getfixturevalue(f"{request.param}_server")
        upstreams[request.param] = {"provider": request.param, "urls": [server.base_url], "model": server.model}
    async with open_house(tmp_path, upstreams) as house:
        house.model = request.param
        yield house


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{house.base_url}/v1", api_key=house.key, max_retries=0) as client:
        yield client


async def in_thread(house: House, work: Callable[[OpenAI], Any]) -> Any:
    """Run the synchronous SDK off the loop that serves it."""

    def run() -> Any:
        with OpenAI(base_url=f"{house.base_url}/v1", api_key=house.key, max_retries=0) as client:
            return work(client)

    return await asyncio.to_thread(run)


def cost_ncr(usage: Any) -> int:
    """What the answer's own usage costs at the test's rates."""
    cached = (usage.prompt_tokens_details.cached_tokens or 0) if getattr(usage, "prompt_tokens_details", None) else 0
    assert cached <= usage.prompt_tokens
    return int(usage.prompt_tokens * PRICES["input"] + (getattr(usage, "completion_tokens", 0) or 0) * PRICES["output"])


async def check_cost(house: House, usage: Any) -> UsageEventRow:
    """The answer's cost, the booked charge and the rate times the usage are one figure."""
    [booked] = await house.events(1)
    assert booked.source == "reported"
    assert booked.charge_ncr == cost_ncr(usage)
    assert Decimal(str(usage.cost)) * NCR_PER_CREDIT == booked.charge_ncr
    assert booked.covered_ncr == booked.charge_ncr
    assert house.account.held_ncr == 0
    return booked


async def test_chat(house: House, client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=house.model, messages=MESSAGES, max_tokens=24, temperature=0)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    booked = await check_cost(house, answer.usage)
    assert (booked.endpoint, booked.stream, booked.outcome, booked.lane) == ("chat/completions", False, "complete", "fast")


async def test_chat_synchronous(house: House) -> None:
    answer = await in_thread(house, lambda client: client.chat.completions.create(model=house.model, messages=MESSAGES, max_tokens=8))
    assert answer.choices[0].message.content
    await check_cost(house, answer.usage)


async def test_chat_streamed_with_usage(house: House, client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=house.model, messages=MESSAGES, max_tokens=24, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert [chunk.usage is not None for chunk in chunks].index(True) == len(chunks) - 1, "usage comes once, last"
    assert chunks[-1].choices == []
    booked = await check_cost(house, chunks[-1].usage)
    assert booked.stream and booked.ttft_us is not None


async def test_chat_streamed_without_asking_for_usage(house: House) -> None:
    def run(client: OpenAI) -> list[Any]:
        return list(client.chat.completions.create(model=house.model, messages=MESSAGES, max_tokens=8, stream=True))

    chunks = await in_thread(house, run)
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)
    [booked] = await house.events(1)
    assert booked.source == "reported" and booked.output and booked.charge_ncr > 0


async def test_chat_with_several_choices(house: House, client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=house.model, messages=MESSAGES, max_tokens=4, n=2)
    assert sorted(choice.index for choice in answer.choices) == [0, 1]
    [booked] = await house.events(1)
    assert booked.output is not None and 2 <= booked.output <= 8
    assert booked.charge_ncr == (booked.input or 0) * PRICES["input"] + (booked.cache_read or 0) * PRICES["input"] + booked.output * PRICES["output"]


async def test_chat_with_logprobs(house: House, client: AsyncOpenAI) -> None:
    if house.model == "echo":
        return  # the echo has no probabilities and says so with null
    answer = await client.chat.completions.create(model=house.model, messages=MESSAGES, max_tokens=3, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content and logprobs.content[0].top_logprobs
    await check_cost(house, answer.usage)


async def test_chat_with_a_json_schema(house: House, client: AsyncOpenAI) -> None:
    if house.model == "echo":
        return
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"], "additionalProperties": False}
    answer = await client.chat.completions.create(
        model=house.model,
        messages=MESSAGES,
        max_tokens=40,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")
    await check_cost(house, answer.usage)


async def test_completions(house: House, client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model=house.model, prompt="Once upon a time", max_tokens=8)
    assert answer.choices[0].text
    assert (await check_cost(house, answer.usage)).endpoint == "completions"


async def test_completions_streamed(house: House, client: AsyncOpenAI) -> None:
    stream = await client.completions.create(model=house.model, prompt="Once upon a time", max_tokens=8, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices)
    await check_cost(house, chunks[-1].usage)


async def test_embeddings(house: House, client: AsyncOpenAI) -> None:
    if house.model == "vllm":
        with pytest.raises(openai.NotFoundError):  # a server of chat models serves none, and says so itself
            await client.embeddings.create(model=house.model, input="Hello")
        return
    answer = await client.embeddings.create(model=house.model, input=["Hello there", "General"], encoding_format="float")
    assert len(answer.data) == 2 and len(answer.data[0].embedding) > 8
    booked = await check_cost(house, answer.usage)
    assert booked.endpoint == "embeddings" and booked.input and booked.output in ((None, 0) if house.model == "local" else (None,))


async def test_models(house: House, client: AsyncOpenAI) -> None:
    listed = {model.id async for model in client.models.list()}
    assert house.model in listed and "unpriced" not in listed
    assert (await client.models.retrieve(house.model)).owned_by == "weir"
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve("nonesuch")
    assert refused.value.code == "model_not_found"


async def test_credits_fall_by_what_was_charged(house: House, client: AsyncOpenAI) -> None:
    before: Any = await client.get("/credits", cast_to=object)
    answer = await client.chat.completions.create(model=house.model, messages=MESSAGES, max_tokens=4)
    after: Any = await client.get("/credits", cast_to=object)
    assert Decimal(before["remaining"]) - Decimal(after["remaining"]) == Decimal(cost_ncr(answer.usage)) / NCR_PER_CREDIT
    assert (after["standing"], after["lane"], after["plan"]) == ("fast", "fast", "test")


async def test_a_refusal_is_raised_as_the_sdks_own_exception(house: House) -> None:
    def run(client: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model=house.model, messages=[])
        assert bad.value.param == "messages"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nonesuch", messages=MESSAGES)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="sk-weir-wrong").chat.completions.create(model=house.model, messages=MESSAGES)

    await in_thread(house, run)


async def test_a_prompt_longer_than_the_context_is_refused_by_the_server_and_costs_nothing(house: House, client: AsyncOpenAI) -> None:
    if house.model == "echo":
        return
    with pytest.raises(openai.APIStatusError) as refused:
        await client.chat.completions.create(model=house.model, messages=[{"role": "user", "content": "word " * 20_000}], max_tokens=4)
    assert (refused.value.status_code, refused.value.code) == (400, "context_length_exceeded")
    assert [row.charge_ncr for row in await house.events(1)] == [0]
