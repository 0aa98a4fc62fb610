"""How alike two short texts are, in [0, 1]: partial credit where exact match gives none."""


def edit_similarity(reference: str, text: str) -> float:
    """1 - d / max(len), with d the Levenshtein distance; white space around does not count; two empty texts are alike.

    O(len(reference) * len(text)) by Wagner & Fischer 1974: meant for short answers.
    """
    a, b = reference.strip(), text.strip()
    longest = max(len(a), len(b))
    return 1.0 - edit_distance(a, b) / longest if longest else 1.0


def edit_distance(a: str, b: str) -> int:
    """Fewest insertions, deletions and substitutions of characters that turn `a` into `b` (Levenshtein 1966)."""
    above = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        row = [i]
        for j, right in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
        above = row
    return above[-1]
