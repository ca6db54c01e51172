"""MLflow as the queue sees it."""
