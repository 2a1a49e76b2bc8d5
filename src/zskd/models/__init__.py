"""Networks: classifiers, checkpoints, architectures."""
