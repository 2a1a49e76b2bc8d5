"""A whole run and what it shows."""
