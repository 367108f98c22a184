"""Tensors: preprocessing, embedders, heads, gates and the bundles that carry them."""
