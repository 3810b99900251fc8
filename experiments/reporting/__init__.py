"""What the result files of the grid say: statistics, tables, RESULTS.md, plots."""
