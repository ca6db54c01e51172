"""Whether an expert fits its base, found out before anything is merged."""
