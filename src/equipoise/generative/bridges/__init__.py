"""Image-to-image bridges, several hidden behaviours in one of them, and how these are found and repaired."""
