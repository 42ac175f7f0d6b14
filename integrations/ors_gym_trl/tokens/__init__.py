"""Token-exact conversations, and the images in them."""
