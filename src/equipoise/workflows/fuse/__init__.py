"""From a file with several blocks of features to a learner for each of them, and their sum."""
