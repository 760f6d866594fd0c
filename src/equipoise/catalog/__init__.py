"""The papers, where each lives, and which claim proves it."""

from equipoise.catalog.papers import Paper, find_paper, load_catalog
from equipoise.catalog.table import methods_table, update_methods_table

__all__ = ["Paper", "find_paper", "load_catalog", "methods_table", "update_methods_table"]
