"""What the recipes run where only pip packages are installed."""
