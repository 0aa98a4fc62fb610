"""Cascades: ask a weak model first, judge its answer, and go on only where that pays."""
