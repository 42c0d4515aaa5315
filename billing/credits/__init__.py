"""Who may still use how much, decided in memory in microseconds, and how usage burns down over grants."""
