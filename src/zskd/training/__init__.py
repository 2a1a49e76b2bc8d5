"""The training loop, its batches and optimisers."""
