"""Random damage for everything that reads files from outside."""
