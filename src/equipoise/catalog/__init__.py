"""The papers, where each lives, and which claim proves it."""
