"""A package, so that its checks and tests/lessons/test_exercises.py can be collected in one pytest run."""
