"""Sensitivity, bit allocation, size and tensor reports, plots, scoring."""
