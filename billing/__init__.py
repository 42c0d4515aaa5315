"""Money without HTTP: what usage costs, who may still use, and what the month's invoice says."""
