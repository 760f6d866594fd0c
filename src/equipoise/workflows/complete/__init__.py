"""From triples to novel triples, and what they are worth."""
