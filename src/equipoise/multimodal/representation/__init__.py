"""Image encoders that see detail without losing what separates classes."""
