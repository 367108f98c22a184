"""The only place where rows and tensors meet: ingest, search, identify."""
