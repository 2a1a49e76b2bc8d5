"""Model inversion: images that the teacher maps to given targets."""
