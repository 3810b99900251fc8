"""Fuzzing with invalid inputs of every kind, generated from a seed."""
