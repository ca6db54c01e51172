"""Merged models as wholes: coefficients, files, answers."""
