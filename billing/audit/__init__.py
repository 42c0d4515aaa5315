"""The audit log: who changed what, when, from what to what; a chain of hashes that shows where somebody touched it."""
