"""Files of LiteLLM proxies as people have them, and as somebody might have them who means harm."""

from __future__ import annotations

SECRETS = ("sk-literal-0123456789abcdef", "hunter2-hunter2", "sk-master-1234567890", "pg-password-abcdef")

SMALLEST = """\
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: gpt-4o-mini
"""

AZURE_AND_FALLBACKS = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://eu.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY_EU
      api_version: 2024-10-21
      rpm: 6
      tpm: 1000
      max_parallel_requests: 8
      timeout: 300
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-us
      api_base: https://gateway.example.com/azure
      api_key: os.environ/AZURE_API_KEY_US
      rpm: 60
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet-4
      max_tokens: 4096
      max_budget: 20
      soft_budget: 10
      budget_duration: 30d
      input_cost_per_token: 0.000003
      output_cost_per_token: 1.5e-05
    model_info:
      max_input_tokens: 200000
      supports_vision: true
router_settings:
  routing_strategy: simple-shuffle
  num_retries: 2
  timeout: 30
  allowed_fails: 3
  cooldown_time: 45
  fallbacks: [{"gpt-4o": ["claude"]}]
  model_group_alias: {"gpt-4": "gpt-4o"}
litellm_settings:
  request_timeout: 600
"""

LITERAL_SECRETS = f"""\
model_list:
  - model_name: a
    litellm_params: {{model: openai/gpt-4o, api_key: {SECRETS[0]}, organization: org-1}}
  - model_name: b
    litellm_params:
      model: groq/llama-3.3-70b-versatile
      api_key: {SECRETS[0]}
      extra_headers: {{X-Api-Token: {SECRETS[1]}, X-Team: red}}
  - model_name: c
    litellm_params: {{model: mistral/mistral-large-latest, api_key: {SECRETS[1]}}}
litellm_settings:
  cache: true
  cache_params: {{type: redis, host: r, password: {SECRETS[1]}, ttl: 600}}
general_settings:
  master_key: {SECRETS[2]}
  database_url: postgresql://user:{SECRETS[3]}@db/litellm
environment_variables:
  GROQ_API_KEY: {SECRETS[1]}
"""

SELF_HOSTED = """\
model_list:
  - model_name: llama
    litellm_params: {model: ollama/llama3.1, api_base: "http://gpu:11434"}
  - model_name: mistral-7b
    litellm_params: {model: ollama_chat/mistral}
  - model_name: qwen
    litellm_params: {model: hosted_vllm/Qwen/Qwen2.5-7B-Instruct, api_base: "http://vllm:8000/v1", api_key: none}
  - model_name: opt
    litellm_params: {model: openai/facebook/opt-125m, api_base: "http://opt:4000/v1", api_key: fake-key}
  - model_name: via-proxy
    litellm_params:
      model: litellm_proxy/gpt-4o
      api_base: https://proxy.example.com
      api_key: os.environ/PROXY_KEY
"""

MANY_PROVIDERS = """\
model_list:
  - {model_name: gemini, litellm_params: {model: gemini/gemini-2.5-flash, api_key: os.environ/GEMINI_API_KEY}}
  - model_name: vertex
    litellm_params: {model: vertex_ai/gemini-2.5-pro, vertex_project: p-1, vertex_location: europe-west1}
  - {model_name: deepseek, litellm_params: {model: deepseek/deepseek-chat}}
  - {model_name: router, litellm_params: {model: openrouter/anthropic/claude-3.5-sonnet}}
  - {model_name: grok, litellm_params: {model: xai/grok-3}}
  - {model_name: fire, litellm_params: {model: fireworks_ai/llama-v3p1-70b-instruct}}
  - {model_name: o3, litellm_params: {model: o3-mini}, model_info: {mode: responses}}
  - {model_name: plain-claude, litellm_params: {model: claude-3-5-haiku-latest}}
"""

WHAT_CANNOT_BE = """\
model_list:
  - {model_name: fine, litellm_params: {model: gpt-4o-mini}}
  - {model_name: bedrock, litellm_params: {model: bedrock/anthropic.claude-v2, aws_region_name: us-east-1}}
  - {model_name: "*", litellm_params: {model: "*"}}
  - {model_name: openai/*, litellm_params: {model: openai/*}}
  - {model_name: embed, litellm_params: {model: openai/text-embedding-3-small}, model_info: {mode: embedding}}
  - {model_name: mystery, litellm_params: {model: some-model}}
  - {model_name: newcomer, litellm_params: {model: newcomer_ai/model-1}}
  - {model_name: no-base, litellm_params: {model: azure/gpt-4}}
  - {model_name: unset, litellm_params: {model: azure/gpt-4, api_base: os.environ/NOT_SET_ANYWHERE}}
  - {model_name: entra, litellm_params: {model: azure/gpt-4, api_base: "https://x.openai.azure.com", azure_ad_token: x}}
  - {model_name: claude-on-vertex, litellm_params: {model: vertex_ai/claude-3-5-sonnet}}
  - {model_name: login, litellm_params: {model: openai/x, api_base: "https://user:hunter2-hunter2@host/v1"}}
  - {litellm_params: {model: gpt-4o}}
  - {model_name: none-at-all}
  - just a text
"""

SETTINGS_OF_ALL_KINDS = """\
model_list:
  - {model_name: small, litellm_params: {model: gpt-4o-mini}}
  - {model_name: large, litellm_params: {model: gpt-4o}}
  - {model_name: safe, litellm_params: {model: claude-3-5-haiku-latest}}
litellm_settings:
  num_retries: 3
  default_fallbacks: [safe]
  context_window_fallbacks: [{small: [large]}]
  content_policy_fallbacks: [{small: [safe]}]
  drop_params: true
  success_callback: [langfuse]
  set_verbose: true
  max_budget: 100
  budget_duration: 1mo
  cache: true
  cache_params: {type: redis-semantic, ttl: 60, similarity_threshold: 0.8}
router_settings:
  routing_strategy: latency-based-routing
  routing_strategy_args: {ttl: 10}
  retry_policy: {TimeoutErrorRetries: 3}
  allowed_fails_policy: {RateLimitErrorAllowedFails: 100}
  redis_host: redis
  redis_password: os.environ/REDIS_PASSWORD
  provider_budget_config: {openai: {budget_limit: 10, time_period: 1d}}
general_settings:
  completion_model: small
  max_parallel_requests: 20
  alerting: [slack]
guardrails: [{guardrail_name: g}]
include: [other.yaml]
"""

A_COMPANY_S = """\
model_list:
  - model_name: chat
    litellm_params: {model: azure/chat-eu, api_base: "https://eu.openai.azure.com", api_key: os.environ/AZURE_EU,
      api_version: "2024-10-21", region_name: eu, rpm: 600}
  - model_name: chat
    litellm_params: {model: azure/chat-us, api_base: "https://us.openai.azure.com", api_key: os.environ/AZURE_US,
      api_version: "2024-10-21", region_name: us, rpm: 300}
  - model_name: roomy
    litellm_params: {model: gemini/gemini-2.5-pro, api_key: os.environ/GEMINI_API_KEY, max_budget: 30,
      budget_duration: 1d, soft_budget: 24}
    model_info: {max_input_tokens: 1000000, max_output_tokens: 8192}
  - model_name: careful
    litellm_params: {model: anthropic/claude-3-5-haiku-latest, api_key: os.environ/ANTHROPIC_API_KEY}
litellm_settings:
  max_budget: 500
  budget_duration: 30d
  max_end_user_budget: 2.5
  request_timeout: 600
  cache: true
  cache_params: {type: redis, host: os.environ/REDIS_HOST, ttl: 900}
router_settings:
  routing_strategy: latency-based-routing
  timeout: 90
  retry_policy: {TimeoutErrorRetries: 1, RateLimitErrorRetries: 4, BadRequestErrorRetries: 0}
  allowed_fails_policy: {TimeoutErrorAllowedFails: 6, InternalServerErrorAllowedFails: 4,
    RateLimitErrorAllowedFails: 99}
  cooldown_time: 20
  default_max_parallel_requests: 40
  context_window_fallbacks: [{chat: [roomy]}, {careful: [roomy]}]
  content_policy_fallbacks: [{chat: [careful]}]
  provider_budget_config:
    anthropic: {budget_limit: 10, time_period: 1d}
    azure: {budget_limit: 200, time_period: 1d}
    cohere: {budget_limit: 1, time_period: 1d}
    openai: 5
  enable_pre_call_checks: true
general_settings:
  master_key: sk-secret-master-key
  max_request_size_mb: 4
  max_response_size_mb: 8
"""

NO_COOLDOWNS = """\
model_list:
  - {model_name: a, litellm_params: {model: gpt-4o}}
  - {model_name: b, litellm_params: {model: gpt-4o-mini}}
  - {model_name: c, litellm_params: {model: deepseek/deepseek-chat}}
router_settings:
  disable_cooldowns: true
  allowed_fails: 2
  num_retries: 0
  retry_policy: {TimeoutErrorRetries: 9}
  routing_strategy: cost-based-routing
  fallbacks: [{a: [b, c]}]
"""

ORDERS_AND_WEIGHTS = """\
model_list:
  - {model_name: m, litellm_params: {model: gpt-4o, api_key: os.environ/A, weight: 9, order: 1}}
  - {model_name: m, litellm_params: {model: gpt-4o, api_key: os.environ/B, weight: 1, order: 1}}
  - {model_name: m, litellm_params: {model: gpt-4o-mini, api_key: os.environ/C, order: 2}}
  - {model_name: n, litellm_params: {model: deepseek/deepseek-chat}}
  - {model_name: o, litellm_params: {model: xai/grok-3}}
fallbacks: [{m: [n, o, nobody]}]
"""

CREDENTIALS_AND_ANCHORS = """\
credential_list:
  - credential_name: eu
    credential_values: {api_key: os.environ/EU_KEY, api_base: "https://eu.openai.azure.com", api_version: "2024-10-21"}
common: &common
  timeout: 20
  rpm: 10
model_list:
  - model_name: x
    litellm_params: {<<: *common, model: azure/x, litellm_credential_name: eu, rpm: 20}
  - model_name: y
    litellm_params: {<<: *common, model: azure/y, litellm_credential_name: nowhere}
"""

ODD_NAMES = """\
model_list:
  - {model_name: openai/gpt 4o, litellm_params: {model: gpt-4o}}
  - {model_name: openai-gpt-4o, litellm_params: {model: gpt-4o-mini}}
  - model_name: "evil\\"]\\n[ledger]\\nurl = \\"sqlite:////etc/x\\""
    litellm_params:
      model: "openai/x\\"\\n# y\\t\\x7f\\u2028z"
      api_base: https://host/v1
  - {model_name: "___", litellm_params: {model: gpt-4o}}
  - {model_name: "日本語", litellm_params: {model: gpt-4o}}
"""

ODD_VALUES = """\
model_list:
  - model_name: a
    litellm_params:
      model: gpt-4o
      rpm: "60"
      tpm: 0
      timeout: -1
      max_parallel_requests: many
      max_budget: os.environ/BUDGET
      budget_duration: 90m
      weight: {}
      cooldown_time: 0
      input_cost_per_token: "0.00000015"
  - model_name: b
    litellm_params: {model: gpt-4o, max_budget: 5, budget_duration: 30s, soft_budget: 7}
"""

FILES = {
    name: text
    for name, text in globals().items()
    if name.isupper()
    and isinstance(text, str)
    and text.lstrip().startswith(("model_list", "credential_list"))
}

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
)

HOSTILE = {
    "an object": b"model_list: !!python/object/apply:os.system ['true']\n",
    "a python name": b"model_list: !!python/name:os.system\n",
    "a local tag": b"model_list: !include other.yaml\n",
    "a tagged scalar": b"model_list: [!!binary aGk=]\n",
    "a bomb of aliases": (BOMB + "model_list: [*j]\n").encode(),
    "an alias of itself": b"model_list: &a [*a]\n",
    "a merge of itself": b"model_list: &a\n  <<: *a\n",
    "a key twice": b"model_list: []\nmodel_list: []\n",
    "two documents": b"model_list: []\n---\nmodel_list: []\n",
    "a key that is a list": b"? [a]\n: b\n",
    "no yaml": b"model_list: [\n",
    "no text": b"model_list: \xff\xfe",
    "too deep": b"model_list: " + b"[" * 40 + b"]" * 40,
    "far too deep": b"model_list: " + b"[" * 5_000,
    "too large": b"#" * 2_000_001,
    "a huge number": b"model_list: [" + b"9" * 5_000 + b"]",
    "no number": b"model_list: [.nan]",
    "half a character": b'model_list: ["\\ud800"]',
    "a list": b"- model_list\n",
    "nothing": b"",
    "no models": b"model_list: []\n",
    "another program's": b"services: {a: b}\n",
}
