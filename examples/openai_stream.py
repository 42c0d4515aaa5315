"""Print an answer as it is written, then what it used and cost, from the stream's last chunk.

pip install openai
WEIR_BASE_URL=http://127.0.0.1:8080/v1 WEIR_API_KEY=sk-weir-... python openai_stream.py
"""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ["WEIR_BASE_URL"], api_key=os.environ["WEIR_API_KEY"])

stream = client.chat.completions.create(
    model=os.environ.get("WEIR_MODEL", "smollm2"),
    messages=[{"role": "user", "content": "Name three rivers, and a town on each."}],
    max_tokens=80,
    stream=True,
    stream_options={"include_usage": True},  # without it the stream carries no usage, as with OpenAI; it is metered all the same
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
    if chunk.usage:
        print(f"\ntokens: {chunk.usage.prompt_tokens} in, {chunk.usage.completion_tokens} out")
        print(f"cost: {(chunk.usage.model_extra or {})['cost']:.9f} credits")
