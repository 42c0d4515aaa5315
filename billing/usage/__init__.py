"""What was used: one immutable event per request, on disk before it is in the books, in the books exactly once."""
