"""Files for finance: usage and invoice lines, the same bytes each time the same month is exported."""
