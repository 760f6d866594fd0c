"""How much of what a user is shown is up to the user: the potential to escape a filter bubble."""
