"""Real images, and augmentation of images."""
