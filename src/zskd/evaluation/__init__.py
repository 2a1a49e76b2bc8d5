"""Metrics, statistics, the agreement estimate, teacher inspection and figures."""
