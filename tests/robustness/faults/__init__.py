"""Commands that are killed, run out of disk or fail at every change of a file."""
