"""TruthfulQA: prefer the truthful answer, under the two-fold protocol of ITI and LoFiT."""
