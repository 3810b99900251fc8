"""Packed layers called with wrong arguments, the library built with sanitizers."""
