"""Transfer sets on disk."""
