"""The shared mathematics: torch and numpy only, no domain."""
