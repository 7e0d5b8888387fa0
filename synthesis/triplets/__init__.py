"""The pipeline of triplets: its stages, and the data set that they end in."""
