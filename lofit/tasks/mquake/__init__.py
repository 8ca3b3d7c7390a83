"""MQuAKE: multi-hop questions under an edited fact."""
