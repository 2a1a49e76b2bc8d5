"""Losses of features: the student's stages are pulled to those of the teacher."""
