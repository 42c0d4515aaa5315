"""Ask through the OpenAI SDK, and see what the answer cost: the only change is the base URL.

pip install openai
WEIR_BASE_URL=http://127.0.0.1:8080/v1 WEIR_API_KEY=sk-weir-... python openai_sync.py
"""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ["WEIR_BASE_URL"], api_key=os.environ["WEIR_API_KEY"])

answer = client.chat.completions.with_raw_response.create(
    model=os.environ.get("WEIR_MODEL", "smollm2"),
    messages=[{"role": "user", "content": "In one sentence: what is a river?"}],
    max_tokens=60,
)
completion = answer.parse()
usage = completion.usage
assert usage is not None
print(completion.choices[0].message.content)
print(f"tokens: {usage.prompt_tokens} in, {usage.completion_tokens} out")
print(f"cost: {(usage.model_extra or {})['cost']:.9f} credits")
print(f"lane: {answer.headers['x-weir-lane']}, credits left: {answer.headers['x-weir-credits-remaining']}")
