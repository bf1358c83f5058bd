"""A package, so that its checks and tests/test_exercises.py can be collected in one pytest run."""
