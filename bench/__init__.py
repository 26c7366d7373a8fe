"""The benchmark of fastnorm: ``python -m bench`` from the root of the repository."""
