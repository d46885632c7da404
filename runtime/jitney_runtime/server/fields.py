"""Fields of a request that are known and not served: OpenAI's, and what vLLM, Xinference, transformers and llama.cpp took up beside them.

A field that stands neither here nor in a request's class is unknown, and refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, tuple[Any, ...]]

# Whatever they say, the answer is the same: who asks, what is kept or cached where, how soon it is done, how tools that are not there
# would be called.
HARMLESS = frozenset(
    {
        "cache_salt",
        "guided_decoding_backend",
        "logit_bias_type",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_interval",
        "user",
    }
)

# With the values that ask for what is done anyway. Any other would change the answer. null is as if absent, for every field.
NOT_SERVED: Values = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    # A model that can think does so unless its template is told, which "none" would have to do.
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "best_of": (1,),
    "echo": (False,),
    # Of other servers: how tokens are drawn.
    "repetition_penalty": (1, 1.0),
    "repeat_penalty": (1, 1.0),
    "length_penalty": (1, 1.0),
    "min_p": (0, 0.0),
    "top_a": (0, 0.0),
    "typical_p": (1, 1.0),
    "tfs_z": (1, 1.0),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "min_tokens": (0,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "early_stopping": (False,),
    "no_repeat_ngram_size": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "lora_name": ("",),
    "vllm_xargs": ({},),
    # What is given beside the text: 0 asks for the tokens that stand there.
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "include_reasoning": (True,),
    # How text becomes tokens and tokens text.
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "add_special_tokens": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "truncate_prompt_tokens": (),
    "documents": ([],),
    "chat_template": (),
    "mm_processor_kwargs": ({},),
    "prompt_embeds": (),
    "thinking": (),
    "reasoning": (),
    "thinking_token_budget": (),
    # Answers in a form.
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "grammar": (),
    "structured_outputs": (),
    # Who comes first, and where keys and values lie.
    "priority": (0,),
    "kv_transfer_params": ({},),
}

# A completion counts them: 0 asks for those of the tokens drawn. And a prompt is made into tokens as the tokenizer does it, without a
# template that could read anything.
NOT_SERVED_OF_COMPLETIONS: Values = {
    **NOT_SERVED,
    "logprobs": (),
    "suffix": ("",),
    "add_special_tokens": (True,),
    "chat_template_kwargs": ({},),
    "enable_thinking": (),
}

# What others call a field, where the spelling does not tell. Counts where the field is served.
OTHER_NAMES: Mapping[str, str] = {
    "max_completion_tokens": "max_tokens",
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "input": "messages",
    "messages": "prompt",
    "prompt": "messages",
    "system": "messages",
    "random_seed": "seed",
    "stop_sequences": "stop",
    "stop_strings": "stop",
}
