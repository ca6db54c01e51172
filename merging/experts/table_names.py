"""What an examples table is called in an expert's folder."""

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".parquet", ".jsonl", ".ndjson", *SEPARATORS)
TABLES = tuple(f"examples{suffix}" for suffix in SUFFIXES)
