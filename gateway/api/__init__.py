"""One file per endpoint. What is here parses and answers; what it means is decided below."""
