"""MLflow's webhooks: registering them, checking them, and turning them into Prefect events."""
