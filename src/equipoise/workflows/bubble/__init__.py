"""How far recommenders let the users of a log out of their bubble."""
