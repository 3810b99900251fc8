"""Bad inputs of every kind, made from a seed."""
