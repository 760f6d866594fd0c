"""One module per room: `ENTRIES`, and `OTHERS` for names that no contract is for."""
