"""What the flows do: one side effect each, as Prefect tasks that can be retried."""
