"""Packing: several texts in one row of a batch, with every part that they share computed once."""
