"""Experiments: arms × rates × seeds; each cell is run once and saved as a record."""
