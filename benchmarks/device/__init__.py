"""Whole processes that recognize speech: the device engine and what it replaces."""
