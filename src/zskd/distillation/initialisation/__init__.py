"""First weights of a student, taken over from its teacher."""
