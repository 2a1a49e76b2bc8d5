"""Shared basics: errors, types, random numbers, files, processes, progress."""
