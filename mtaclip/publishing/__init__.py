"""Models as folders that others can load: weights, config, class texts, class names and a model card."""
