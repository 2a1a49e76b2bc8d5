"""Weights in files of other programs: read without running them, fitted to a network by name and shape."""
