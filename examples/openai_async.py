"""Ask several things at once through the OpenAI SDK's asynchronous client.

pip install openai
WEIR_BASE_URL=http://127.0.0.1:8080/v1 WEIR_API_KEY=sk-weir-... python openai_async.py
"""

import asyncio
import os

from openai import AsyncOpenAI

CITIES = ["Paris", "Kyoto", "Nairobi"]


async def country_of(client: AsyncOpenAI, city: str) -> str:
    """Ask which country a city is in."""
    completion = await client.chat.completions.create(
        model=os.environ.get("WEIR_MODEL", "smollm2"),
        messages=[{"role": "user", "content": f"Which country is {city} in? Answer with its name."}],
        max_tokens=20,
    )
    return completion.choices[0].message.content or ""


async def main() -> None:
    """Ask about all cities together, and print the answers in their order."""
    async with AsyncOpenAI(base_url=os.environ["WEIR_BASE_URL"], api_key=os.environ["WEIR_API_KEY"]) as client:
        answers = await asyncio.gather(*(country_of(client, city) for city in CITIES))
    for city, answer in zip(CITIES, answers, strict=True):
        print(f"{city}: {answer.strip()}")


asyncio.run(main())
