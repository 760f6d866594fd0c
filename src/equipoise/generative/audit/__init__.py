"""Hidden behaviours of a text-to-image service, found from prompts and pictures alone."""
