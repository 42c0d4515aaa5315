"""The months a tenant is billed by: where each begins and ends, and what is frozen when one is closed."""
