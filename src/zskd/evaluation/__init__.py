"""What can be measured and estimated."""
