"""How well a model ranks classes, and tells what it was taught from what it was not."""
