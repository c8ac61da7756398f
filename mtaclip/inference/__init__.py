"""From predictions to label maps."""
