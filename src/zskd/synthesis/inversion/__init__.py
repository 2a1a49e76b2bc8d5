"""Turning targets into images."""
