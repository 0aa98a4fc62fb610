"""Fusers: GenFuser, and fusion by prompt in any pool."""
