"""Fixtures: the declaration, and a folder of results."""

from tests.experiments.records import declared, folder  # noqa: F401
