"""How a list of rows becomes a file: columns that know their kind, the formats, and what a file's control totals are. Pure but for what it writes to."""
