"""Imported before every test module: the package repairs Detectron2 before anything imports it."""

import mtaclip  # noqa: F401
