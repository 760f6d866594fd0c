"""From a model and inputs to the spectrum of its tangent kernel."""
