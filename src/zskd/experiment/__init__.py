"""Experiments: arms × rates × seeds, done once each, written down as records."""
