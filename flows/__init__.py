"""The stories of the queue, as Prefect flows."""
