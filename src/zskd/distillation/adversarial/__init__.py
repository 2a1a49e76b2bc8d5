"""Images made against the student as it learns."""
