"""Parameters that only some engines know: which of them change an answer, and who honours which.

They travel in `Query.extra` under their own names, checked, and only with a value that requests something: a neutral
one, such as `top_k: -1`, is left out before. `Capabilities.parameters` says which of them a pool honours. A pool that
does not is not chosen for a query with one of NEEDED, and is not sent one of HINTS.
"""

from typing import Final

NEEDED: Final = frozenset(
    (
        "add_generation_prompt",
        "add_special_tokens",
        "allowed_token_ids",
        "audio",
        "bad_words",
        "best_of",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "early_stopping",
        "echo",
        "function_call",
        "functions",
        "ignore_eos",
        "include_reasoning",
        "include_stop_str_in_output",
        "length_penalty",
        "logit_bias",
        "min_p",
        "min_tokens",
        "modalities",
        "moderation",
        "prompt_logprobs",
        "repetition_penalty",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "suffix",
        "top_k",
        "truncate_prompt_tokens",
        "use_beam_search",
        "web_search_options",
    )
)
"""They change the answer: where no pool honours one, the request is refused."""

HINTS: Final = frozenset(
    (
        "cache_control",
        "metadata",
        "prediction",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
    )
)
"""Wishes about cost, speed, records or effort: a pool that does not know one answers without it."""

TRANSFORMERS: Final = frozenset(
    (
        "chat_template_kwargs",
        "ignore_eos",
        "logit_bias",
        "min_p",
        "min_tokens",
        "repetition_penalty",
        "top_k",
    )
)
"""What the engine `transformers` honours."""

VLLM: Final = frozenset(
    (
        "add_generation_prompt",
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "min_p",
        "min_tokens",
        "reasoning_effort",
        "repetition_penalty",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "top_k",
        "truncate_prompt_tokens",
    )
)
"""What the engine `vllm` honours; `priority` as well where its scheduler goes by it."""

OPENAI: Final = (
    "cache_control",
    "logit_bias",
    "modalities",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "safety_identifier",
    "service_tier",
    "store",
    "verbosity",
    "web_search_options",
)
"""What an upstream is sent unless its settings say otherwise."""

PASSED: Final = "passed"
"""In `Query.extra`: an object of the parameters that are unknown here, for pools with `Capabilities.unknown`."""
ECHOED: Final = frozenset(
    (
        "audio",
        "cache_control",
        "images",
        "provider_specific_fields",
        "extra_content",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "thinking",
        "thinking_blocks",
    )
)
"""Keys in `Message.extra` that only the upstream which gave them can read; there only where a pool takes them."""
