"""Tables, pictures and pages from records."""
