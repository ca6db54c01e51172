"""The demo: real experts of a real model, trained here and brought to the queue."""
