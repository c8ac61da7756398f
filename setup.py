"""Setuptools' entry for code that pyproject.toml cannot describe; everything else about the package stands there."""

from setuptools import setup

setup()
