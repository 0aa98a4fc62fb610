"""The published figures that ours are compared with.

Ding et al. 2024 (arXiv 2404.14618), main table: performance drop in % of BART score against all-at-large, on
MixInstruct. As recalled from the paper, not read from it again: treat them as such.
"""

ADVANTAGES = (0.1, 0.2, 0.4)
"""Cost advantage: the share of queries that the small model answers."""

BEYOND = 0.6
"""Where the small model must answer more queries than it is good for: the relaxation is for this, in the lab too."""

PAPER = {
    "Llama-2 7b to 13b (small gap)": {
        "r_det": (0.1, 0.1, 0.2),
        "r_prob": (-0.1, 0.0, 0.1),
        "r_trans": (0.1, 0.2, 0.0),
    },
    "Llama-2-13b to GPT-3.5 (middle gap)": {
        "r_det": (0.1, 1.0, 3.5),
        "r_prob": (-0.1, 0.8, 3.4),
        "r_trans": (0.2, 0.4, 2.1),
    },
    "FLAN-T5-800m to Llama-2-13b (large gap)": {
        "r_det": (2.3, 5.8, 13.8),
        "r_prob": (2.2, 5.8, 13.1),
        "r_trans": (2.1, 4.7, 10.3),
    },
}
