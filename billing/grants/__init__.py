"""Credits given: every month's allowance, top-up, promotion and adjustment is its own grant with its own life."""
