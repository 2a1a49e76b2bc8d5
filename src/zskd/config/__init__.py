"""Settings: one file per stage. Nothing here imports torch."""
