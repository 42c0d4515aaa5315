"""What a tenant owes for a period: drafted from the books, issued once with a number, never changed."""
