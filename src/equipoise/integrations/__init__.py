"""Other libraries, thin and each optional."""
