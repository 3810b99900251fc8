"""What becomes of files and inputs when something goes wrong: faults and fuzzing."""
