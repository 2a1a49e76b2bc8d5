"""What the pages show. Each module ends in its tables, by the names of their blocks."""
