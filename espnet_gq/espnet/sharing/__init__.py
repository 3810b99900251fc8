"""Model zips, the hub and the model card."""
