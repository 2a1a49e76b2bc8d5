"""Groups of settings, in the order of a page of `--help`."""

from __future__ import annotations

from cyclopts import Group

RUN = Group.create_ordered("What to make")
TEACHER = Group.create_ordered("Teacher")
DATA = Group.create_ordered("Data")
OUTPUT = Group.create_ordered("Output")
MACHINE = Group.create_ordered("This machine")

RUN_DETAILS = Group.create_ordered("More about the run")
TRAINING = Group.create_ordered("Training of the teacher")
TARGETS = Group.create_ordered("Targets")
SYNTHESIS = Group.create_ordered("Synthesis")
DISTILLATION = Group.create_ordered("Distillation")
AUGMENTATION = Group.create_ordered("Augmentation")
FEATURES = Group.create_ordered("Features of inner layers")
GENERATOR = Group.create_ordered("Adversarial generator")
IMAGE_BANK = Group.create_ordered("Adversarial image bank")
SOURCES = Group.create_ordered("Other images in the batches")

DETAILS = frozenset(
    group.name
    for group in (
        RUN_DETAILS,
        TRAINING,
        TARGETS,
        SYNTHESIS,
        DISTILLATION,
        AUGMENTATION,
        FEATURES,
        GENERATOR,
        IMAGE_BANK,
        SOURCES,
    )
)
"""Titles of the groups that only `--help-all` shows."""
