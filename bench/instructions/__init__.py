"""Instructions per element of each kernel: ``python -m bench.instructions``."""
