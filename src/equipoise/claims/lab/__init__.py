"""What several claims share: worlds, networks, training loops."""
