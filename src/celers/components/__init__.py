"""The operations, one class for each topic."""
