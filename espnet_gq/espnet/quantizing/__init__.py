"""Any trained ESPnet recogniser made smaller: its files found, read and written."""
