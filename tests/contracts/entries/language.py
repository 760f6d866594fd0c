"""The public names of `equipoise.language`; those of its topics stand in the other modules of that name."""

PACKAGES = ["language"]
