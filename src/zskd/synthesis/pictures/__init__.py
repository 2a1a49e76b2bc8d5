"""Procedural pictures: start images with texture, structure, colour and light, from random numbers."""
