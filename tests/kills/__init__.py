"""Commands that are killed, or lose power, and then run again: the bytes must be those of others."""
