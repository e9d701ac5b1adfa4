"""The stages' speed at a chosen model size, on the built-in world's data or on yours: `python -m benchmarks --help`."""
