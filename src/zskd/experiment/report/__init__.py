"""Tables, figures and pages of an experiment, computed from its records."""
