"""The command run_lra.py: its options, and a function for each thing that it does."""
