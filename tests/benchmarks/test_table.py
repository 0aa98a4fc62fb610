"""Markdown tables."""

from benchmarks.table import markdown


def test_columns_are_aligned_and_figures_rounded() -> None:
    assert markdown(["name", "rate"], [("a", 1234.5), ("bcd", 0.012345), ("e", None), ("f", float("nan"))]) == (
        "| name |   rate |\n"
        "| ---- | -----: |\n"
        "| a    |  1,234 |\n"
        "| bcd  | 0.0123 |\n"
        "| e    |      – |\n"
        "| f    |      – |\n"
    )
