"""Who is behind `provider/model`: the protocol that is spoken there, where, and with which key.

A table, so that another provider is another line. What LiteLLM reaches by a protocol of its own is listed with the
reason; what is in neither is told as unknown, never guessed.
"""

from __future__ import annotations

from msgspec import Struct

from theo_daemon.config import Provider


class Known(Struct, frozen=True):
    """`base_url` None: the file must name it. `suffix` is what LiteLLM appends to `api_base` by itself."""

    provider: Provider
    base_url: str | None
    key: str | None  # the environment variable that LiteLLM looks at where no key is given
    suffix: str = ""
    told: str = ""  # what an operator must know


def _chat(base_url: str, key: str, told: str = "") -> Known:
    return Known("openai", base_url, key, told=told)


def _own(base_url: str | None = None, suffix: str = "") -> Known:
    """A server of one's own."""
    return Known("openai", base_url, None, suffix)


PROVIDERS: dict[str, Known] = {
    "openai": _chat("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "anthropic": Known("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", suffix="/v1"),
    "gemini": Known("gemini", "https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY"),
    "azure": Known("openai", None, "AZURE_API_KEY"),
    "azure_ai": Known(
        "openai", None, "AZURE_AI_API_KEY", told="check base_url: it must end where /chat/completions begins"
    ),
    "vertex_ai": Known("gemini", None, None),
    "groq": _chat("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": _chat("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "codestral": _chat("https://codestral.mistral.ai/v1", "CODESTRAL_API_KEY"),
    "deepseek": _chat("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "openrouter": _chat("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "together_ai": _chat("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "fireworks_ai": _chat("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "perplexity": _chat("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "xai": _chat("https://api.x.ai/v1", "XAI_API_KEY"),
    "cerebras": _chat("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "nvidia_nim": _chat("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "sambanova": _chat("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "deepinfra": _chat("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "moonshot": _chat("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "dashscope": _chat("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "volcengine": _chat("https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY"),
    "meta_llama": _chat("https://api.llama.com/compat/v1", "LLAMA_API_KEY"),
    "friendliai": _chat("https://api.friendli.ai/serverless/v1", "FRIENDLI_TOKEN"),
    "novita": _chat("https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    "nebius": _chat("https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY"),
    "hyperbolic": _chat("https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    "lambda_ai": _chat("https://api.lambda.ai/v1", "LAMBDA_API_KEY"),
    "ollama": _own("http://localhost:11434/v1", suffix="/v1"),
    "ollama_chat": _own("http://localhost:11434/v1", suffix="/v1"),
    "hosted_vllm": _own(),
    "vllm": _own(),
    "lm_studio": _own(),
    "llamafile": _own("http://127.0.0.1:8080/v1"),
    "xinference": _own(),
    "litellm_proxy": _own(),
    "openai_like": _own(),
    "custom_openai": _own(),
}

NOT_SPOKEN: dict[str, str] = {
    "bedrock": "Bedrock signs requests in a way of its own",
    "sagemaker": "SageMaker signs requests in a way of its own",
    "sagemaker_chat": "SageMaker signs requests in a way of its own",
    "cohere": "Cohere's own protocol is not spoken here",
    "cohere_chat": "Cohere's own protocol is not spoken here",
    "replicate": "Replicate's own protocol is not spoken here",
    "huggingface": "name its OpenAI-compatible endpoint as openai/... with api_base, and import again",
    "databricks": "name its OpenAI-compatible endpoint as openai/... with api_base, and import again",
    "cloudflare": "name its OpenAI-compatible endpoint as openai/... with api_base, and import again",
    "watsonx": "watsonx needs tokens that are fetched by a protocol of its own",
    "text-completion-openai": "completions that are no chat are not offered here",
    "assemblyai": "audio is not offered here",
    "deepgram": "audio is not offered here",
    "elevenlabs": "audio is not offered here",
    "voyage": "embeddings are not offered here",
    "jina_ai": "embeddings are not offered here",
    "infinity": "embeddings are not offered here",
}

# LiteLLM guesses the provider of a bare name from a long list; these beginnings are beyond doubt.
_BARE = {
    "openai": ("gpt-", "chatgpt-", "o1", "o3", "o4"),
    "anthropic": ("claude-",),
    "vertex_ai": ("gemini-",),
}


def split_model(model: str, given: str | None) -> tuple[str | None, str]:
    """LiteLLM's provider and the provider's own name of the model; `given` is `custom_llm_provider`.

    None: a bare name that could be anybody's.
    """
    if given:
        return given, model.removeprefix(f"{given}/")
    head, slash, rest = model.partition("/")
    if slash:
        return head, rest
    for provider, beginnings in _BARE.items():
        if model.startswith(beginnings):
            return provider, model
    return None, model


def why_not(provider: str | None) -> str:
    """Why a model of this provider cannot be taken over."""
    if provider is None:
        return "whose model this is cannot be told: write it as provider/model, and import again"
    if provider in NOT_SPOKEN:
        return NOT_SPOKEN[provider]
    how = "if it speaks OpenAI's chat, write openai/... and its api_base"
    return f"provider {provider[:40]!r} is not known here; {how}"
