"""The report on a candidate, for a reviewer who knows nothing of the code."""
