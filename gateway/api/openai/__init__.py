"""What applications call: OpenAI's endpoints, as plain ASGI."""
