"""Transfer sets for other programs, one file per format."""
