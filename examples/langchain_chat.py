"""Use the gateway from LangChain: ChatOpenAI with another base URL, whole and streamed.

pip install langchain-openai
WEIR_BASE_URL=http://127.0.0.1:8080/v1 WEIR_API_KEY=sk-weir-... python langchain_chat.py
"""

import os

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

model = ChatOpenAI(
    model=os.environ.get("WEIR_MODEL", "smollm2"),
    base_url=os.environ["WEIR_BASE_URL"],
    api_key=SecretStr(os.environ["WEIR_API_KEY"]),
    max_completion_tokens=60,
    stream_usage=True,
)

answer = model.invoke([("system", "Answer in one short sentence."), ("human", "Why is the sky blue?")])
print(answer.content)
print(f"usage: {answer.usage_metadata}")

for piece in model.stream("Count from one to five."):
    print(piece.content, end="", flush=True)
print()
