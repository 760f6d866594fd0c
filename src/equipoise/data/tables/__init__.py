"""Tables: reading, encoding, splitting, and sets that ship inside installed packages."""
