"""Running the cells of the grid: data, float starts, training, measuring."""
