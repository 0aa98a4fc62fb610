"""RouteLLM's published figures for the same questions and the same pair of models.

Ong et al. 2024 (arXiv 2406.18665, tables 1 to 3, routers trained on augmented data): GPT-4-1106 and Mixtral-8x7B, the
very answers that the released evaluation data hold. Their routers were trained on Chatbot Arena battles with added
labels, NOT on these questions, so the figures answer a harder question: they are context, not a race. Taken down from
memory; those in CONFIRMED agree with the plots in the authors' repository, the others were not checked against a copy.
"""

from typing import Final

PUBLISHED: Final = {
    "mt_bench": {
        "random": (0.500, 49.0, 78.1),
        "bert": (0.751, 19.6, 34.0),
        "causal_llm": (0.679, 31.5, 48.8),
        "mf": (0.802, 13.4, 31.3),
        "sw_ranking": (0.759, 23.2, 36.0),
    },
    "gsm8k": {
        "random": (0.497, 50.0, 80.1),
        "bert": (0.531, 44.8, 79.1),
        "causal_llm": (0.622, 33.6, 63.3),
        "mf": (0.565, 38.8, 72.6),
        "sw_ranking": (0.568, 41.2, 72.2),
    },
    "mmlu": {
        "random": (0.500, 50.1, 79.9),
        "bert": (0.572, 41.3, 72.2),
        "causal_llm": (0.600, 35.5, 70.3),
        "mf": (0.597, 35.5, 71.4),
        "sw_ranking": (0.603, 35.4, 71.6),
    },
}
"""Benchmark to router to APGR (by deciles), CPT(50 %) and CPT(80 %), both in % of strong calls."""

CONFIRMED: Final = {
    ("gsm8k", "bert", "cpt50"),
    ("gsm8k", "causal_llm", "cpt50"),
    ("gsm8k", "causal_llm", "cpt80"),
    ("gsm8k", "mf", "cpt50"),
    ("mt_bench", "sw_ranking", "cpt50"),
}


def published(benchmark: str) -> dict[str, tuple[float, float, float]]:
    """The figures for a benchmark as the files name it; empty if there are none."""
    return PUBLISHED.get(benchmark.lower().replace("-", "_").removesuffix("_dev"), {})
