"""Real images and random changes of images."""
