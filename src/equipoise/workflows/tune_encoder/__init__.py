"""From an image encoder and pictures to an encoder that sees more of them."""
