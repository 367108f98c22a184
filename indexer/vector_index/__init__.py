"""Vector indexes of one space: the exact oracle, the FAISS 8-bit scan and pgvector."""
