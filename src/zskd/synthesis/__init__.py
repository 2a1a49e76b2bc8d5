"""From a teacher to a transfer set."""
