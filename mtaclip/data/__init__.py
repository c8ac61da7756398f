"""Images, labels, class texts and loaders. Importing this package registers Cityscapes and ADE20K."""

from mtaclip.data import datasets  # noqa: F401  (it registers the datasets)
