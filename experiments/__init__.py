"""The accuracy grid: methods, bits, starts and seeds."""
