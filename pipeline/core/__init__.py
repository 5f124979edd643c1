"""Tensors only, no file and no plan: what methods, attacks and evaluation are made of."""
