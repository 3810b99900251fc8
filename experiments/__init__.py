"""What accuracy is measured by: the grid of methods, bits, starts and seeds."""
