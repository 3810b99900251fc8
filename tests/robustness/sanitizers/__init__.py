"""Packed layers called with wrong arguments, with a library built with sanitizers."""
