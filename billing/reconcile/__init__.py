"""What providers billed, held against what we metered."""
