"""Faster ways for a model that a plain forward pass also computes: packing, attention, cache, prepacked weights."""
