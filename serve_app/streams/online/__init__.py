"""Online cascade learning over streams of classification queries (Nie et al., ICML 2024, arXiv 2402.04513)."""
