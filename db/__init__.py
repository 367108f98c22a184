"""Rows: tables, sessions and queries. Knows nothing of tensors or HTTP."""
