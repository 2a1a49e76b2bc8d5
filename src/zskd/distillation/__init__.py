"""From a teacher and a transfer set to a student."""
