"""Two modalities of one person matched in one space, for people who were never seen in training."""
