"""A warm parent: modules run in processes forked from one that has imported everything already.

`python -m MODULE` takes up to twenty seconds where torch, transformers, MLflow and Prefect are imported
first. The same module, run in a fork of a process that has imported them, starts at once.
"""
