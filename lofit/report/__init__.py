"""The tidy results table, and the tables, figures and report page made from it."""
