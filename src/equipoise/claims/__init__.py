"""One experiment a paper, written only against the public API."""
