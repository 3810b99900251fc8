"""Injection of faults into every change that a command makes to its files."""
