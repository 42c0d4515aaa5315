"""Who is asking: API keys on the hot path, admin keys on the others."""
