"""The check on a GPU of all that cannot be shown without one."""
