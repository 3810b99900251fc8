"""Fault injection, fuzzing and differential tests."""
