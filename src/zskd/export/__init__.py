"""A network as files for other programs."""
