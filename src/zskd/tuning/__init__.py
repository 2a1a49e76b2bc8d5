"""Search for settings of a recipe on validation images."""
