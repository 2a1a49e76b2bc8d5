"""What a run takes before it is paid for: its parts, measured in small, and simulated for many workers."""
