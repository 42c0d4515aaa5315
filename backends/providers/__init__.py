"""One file per dialect. `openai_compatible` is the one that most servers speak; the others say how they differ from it."""
