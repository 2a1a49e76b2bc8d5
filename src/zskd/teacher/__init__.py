"""Where a teacher comes from: training, or a file."""
