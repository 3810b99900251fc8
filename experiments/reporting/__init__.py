"""Reports on the grid's result files: statistics, tables, RESULTS.md, plots."""
