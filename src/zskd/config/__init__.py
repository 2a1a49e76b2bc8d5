"""Settings: one file per stage. No file here imports torch."""
