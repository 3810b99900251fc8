"""Tests and their shared helpers, which are imported as tests.ROOM.NAME."""
