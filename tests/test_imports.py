"""Holds the house: the floors of the package, no circle of imports, and that importing it stays light."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "serve_app"

FLOORS = (
    ("types", "errors", "arrays", "files", "erasure", "numbers", "precision"),
    ("wire", "journal", "front", "plots"),
    ("config",),
    ("lab", "learning"),
    ("pools", "store"),
    ("engines", "observability", "autoscaling"),
    ("data",),
    ("strategy",),
    ("grading", "decision", "streams"),
    ("routing",),
    ("cascade", "ensemble"),
    ("orchestration",),
    ("training", "tuning", "backup"),
