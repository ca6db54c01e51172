"""What an expert brings, as it lies on disk: checkpoint or adapter, head, examples."""
