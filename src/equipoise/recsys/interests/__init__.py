"""Which past clicks matter for the item that is shown, chosen so that the choice generalises."""
