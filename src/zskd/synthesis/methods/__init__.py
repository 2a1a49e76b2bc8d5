"""The methods that fill a transfer set: one file each."""
