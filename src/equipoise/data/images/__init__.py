"""Images from files, and corrupted copies of them."""
