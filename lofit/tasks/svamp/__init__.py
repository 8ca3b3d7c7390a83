"""SVAMP: word problems of elementary arithmetic with one operation."""
