"""Parts of networks that several rooms share."""
