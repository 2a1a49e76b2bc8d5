"""Narrower copies of networks: of plain chains (`half`) and of any network whose channels can be followed."""
