"""One tidy results table, and the tables and figures drawn from it."""
