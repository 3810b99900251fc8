"""Sensitivity, size reports, scoring."""
