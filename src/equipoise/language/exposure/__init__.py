"""What a student meets when it writes on its own: risk of a token, exposure bias, worlds where both are exact."""
