"""OpenAI's dialect, which most servers speak: what the providers of its family share, so that none of them leans on another."""
