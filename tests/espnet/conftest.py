"""Fixtures: a tiny task, and a finished training on it."""

import pytest
from tiny_task import Task


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    return Task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="session")
def trained(task):
    """Folder of a finished QAT training of two epochs."""
    task.train(task.config(), "trained")
    return task.path / "trained"
