"""Adversarial images: made during the training, so that student and teacher differ on them."""
