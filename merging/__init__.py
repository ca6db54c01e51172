"""The merging engine: checkpoints, task vectors, coefficients, learning, evaluation, statistics.

Pure torch. Nothing here knows of Prefect, MLflow, S3 or Great Expectations, so it can be used on
its own in a notebook or another pipeline.
"""
