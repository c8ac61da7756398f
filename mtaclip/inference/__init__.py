"""From what the model says of an image to its label map."""
